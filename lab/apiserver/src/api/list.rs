//! Lists: selectors, pages, and which revision the caller insists on.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::{Api, Target};
use crate::client::Object;
use crate::object;
use crate::status::Status;
use crate::store::Key;

/// Query of a list.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListRequest {
    pub(crate) labels: String,
    pub(crate) fields: String,
    /// 0: no limit.
    pub(crate) limit: usize,
    pub(crate) continue_token: String,
    /// The list must be at least as new as this.
    pub(crate) not_older_than: Option<u64>,
}

/// A list, or a part of it.
pub(crate) struct Page {
    pub(crate) items: Vec<Object>,
    /// Revision to watch from. For later pages that of the first page, so that no change between pages is missed.
    pub(crate) revision: u64,
    /// Empty on the last page.
    pub(crate) continue_token: String,
    /// How many are left, when that is known.
    pub(crate) remaining: Option<usize>,
}

impl Api {
    pub(crate) fn list(&self, target: &Target, request: &ListRequest) -> Result<Page, Status> {
        let kind = &target.kind;
        let (labels, fields) = Self::selectors(kind, &request.labels, &request.fields)?;
        let (objects, mut revision) = self.store.list(&kind.storage, target.namespace.as_deref());
        if let Some(asked) = request.not_older_than.filter(|asked| *asked > revision) {
            return Err(Status::too_large_resource_version(asked, revision));
        }
        let mut after = None;
        if !request.continue_token.is_empty() {
            let (at, key) = read_token(&request.continue_token)?;
            self.store.remembers(&kind.storage, at)?;
            revision = at;
            after = Some(key);
        }
        let mut matching = objects
            .into_iter()
            .filter(|o| after.as_ref().is_none_or(|key| key_of(o) > *key))
            .filter(|o| labels.matches(o) && fields.matches(o));
        let limit = if request.limit == 0 {
            usize::MAX
        } else {
            request.limit
        };
        let items: Vec<Object> = matching.by_ref().take(limit).collect();
        let rest = matching.count();
        let continue_token = match items.last() {
            Some(last) if rest > 0 => write_token(revision, last),
            _ => String::new(),
        };
        // With a selector the number is not known to the real server, and clients know that.
        let known = rest > 0 && request.labels.is_empty() && request.fields.is_empty();
        let items = items.iter().map(|o| Self::present(kind, o)).collect();
        Ok(Page {
            items,
            revision,
            continue_token,
            remaining: known.then_some(rest),
        })
    }
}

fn key_of(object: &Object) -> Key {
    Key::new(object::namespace(object), object::name(object))
}

fn write_token(revision: u64, last: &Object) -> String {
    let token = json!({"rv": revision, "ns": object::namespace(last), "name": object::name(last)});
    URL_SAFE_NO_PAD.encode(token.to_string())
}

fn read_token(text: &str) -> Result<(u64, Key), Status> {
    let parse = || {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let token: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
        Some((
            token["rv"].as_u64()?,
            Key::new(token["ns"].as_str()?, token["name"].as_str()?),
        ))
    };
    parse().ok_or_else(|| Status::bad_request("continue key is not valid: it was not made by this server"))
}
