//! Server-side apply.

use serde_json::Value;

use super::write::{place, writer};
use super::{Api, Target, WriteOptions, Written, decode};
use crate::client::Object;
use crate::object;
use crate::patch::managed;
use crate::status::Status;

impl Api {
    /// Applies a configuration to the object that was found, or makes it. The writer lock is held.
    /// Errors: 400, 404 (subresources of nothing), 409 for conflicts, 422.
    pub(super) fn apply(
        &self,
        target: &Target,
        found: Result<Object, Status>,
        mut config: Value,
        force: bool,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        let kind = &target.kind;
        let warnings = decode(kind, &mut config, options.field_validation)?;
        if !object::items(&config["metadata"]["managedFields"]).is_empty() {
            return Err(Status::bad_request("metadata.managedFields must be nil"));
        }
        place(target, &mut config)?;
        let name = object::meta_mut(&mut config)
            .entry("name")
            .or_insert_with(|| target.name().into());
        if name != target.name() {
            return Err(Status::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                name.as_str().unwrap_or_default(),
                target.name()
            )));
        }
        let live = match &found {
            Ok(current) => (*Self::present(kind, current)).clone(),
            Err(_) if target.subresource.is_some() => return Err(target.not_found()),
            Err(_) => Value::Null,
        };
        let (mut object, owners) = managed::apply(kind, &live, &config, writer(target, options), force)?;
        let (object, created) = match found {
            Ok(current) => {
                decode(kind, &mut object, options.field_validation)?;
                let object = self.replace_as(target, &current, object, options, Some(owners))?;
                (object, false)
            }
            Err(_) => (self.insert(target, object, options, &owners)?, true),
        };
        Ok(Written {
            object,
            created,
            warnings,
        })
    }
}
