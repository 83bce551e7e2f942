//! Which kinds are served at the moment: the built-in table and what custom resource definitions add.

use std::sync::{Arc, PoisonError, RwLock};

use crate::kinds::{self, Kind};

/// The kinds by group, version and plural name, in the order of discovery.
pub(crate) struct Registry {
    kinds: RwLock<Vec<Arc<Kind>>>,
}

impl Registry {
    pub(crate) fn new() -> Self {
        Self {
            kinds: RwLock::new(kinds::builtin().into_iter().map(Arc::new).collect()),
        }
    }

    pub(crate) fn all(&self) -> Vec<Arc<Kind>> {
        self.kinds.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner);
        kinds
            .iter()
            .find(|k| k.plural == plural && k.group == group && k.version == version)
            .cloned()
    }

    /// Replaces the rows of one custom resource (none: it is no longer served). Built-in rows cannot be touched.
    pub(crate) fn replace_custom(&self, group: &str, plural: &str, rows: Vec<Kind>) {
        let mut kinds = self.kinds.write().unwrap_or_else(PoisonError::into_inner);
        kinds.retain(|k| !(k.custom && k.group == group && k.plural == plural));
        kinds.extend(rows.into_iter().map(Arc::new));
    }
}
