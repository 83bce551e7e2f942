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
        let token = match request.continue_token.as_str() {
            "" => None,
            token => Some(read_token(token)?),
        };
        let after = token.as_ref().map(|(_, key)| key);
        let (objects, mut revision) =
            self.store
                .list_after(&kind.storage, target.namespace.as_deref(), after);
        if let Some(asked) = request.not_older_than.filter(|asked| *asked > revision) {
            return Err(Status::too_large_resource_version(asked, revision));
        }
        if let Some((at, _)) = token {
            self.store.remembers(&kind.storage, at)?;
            revision = at;
        }
        let mut matching = objects
            .into_iter()
            .filter(|o| labels.matches(o) && fields.matches(o));
        let limit = if request.limit == 0 {
            usize::MAX
        } else {
            request.limit
        };
        let items: Vec<Object> = matching.by_ref().take(limit).collect();
        // With a selector the number of the rest is not known to the real server, and clients know that.
        let is_counted = request.labels.is_empty() && request.fields.is_empty();
        let rest = if is_counted {
            matching.count()
        } else {
            usize::from(matching.next().is_some())
        };
        let continue_token = match items.last() {
            Some(last) if rest > 0 => write_token(revision, last),
            _ => String::new(),
        };
        let items = items.iter().map(|o| Self::present(kind, o)).collect();
        Ok(Page {
            items,
            revision,
            continue_token,
            remaining: (is_counted && rest > 0).then_some(rest),
        })
    }
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
