//! Empties namespaces that are being deleted, and lets them go when they are empty.

use std::time::Duration;

use anyhow::Context as _;
use lab_apiserver::{Client, ListOptions, Resource, ServedResource};
use serde_json::{Value, json};

use super::{Controller, Key, Next, Trigger};

/// The finalizer that holds a namespace until it is empty.
const FINALIZER: &str = "kubernetes";
/// When to look again at a namespace whose last objects take their time.
const RETRY: Duration = Duration::from_millis(250);

/// The controller.
pub(crate) struct Namespaces {
    client: Client,
}

impl Namespaces {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Asks for the end of everything in a namespace; answers how much is still there, by resource.
    async fn empty(&self, name: &str) -> anyhow::Result<Vec<(String, usize)>> {
        let everything = ListOptions::default();
        let mut left = Vec::new();
        for ServedResource { resource, .. } in self
            .client
            .resources()
            .into_iter()
            .filter(|served| served.namespaced)
        {
            let there = self.client.list(&resource, Some(name), &everything).await?.items;
            if there
                .iter()
                .any(|object| object["metadata"]["deletionTimestamp"].is_null())
            {
                self.client
                    .delete_collection(&resource, Some(name), &everything)
                    .await
                    .with_context(|| format!("cannot delete the {} of namespace {name}", resource.plural))?;
            }
            let remaining = self
                .client
                .list(&resource, Some(name), &everything)
                .await?
                .items
                .len();
            if remaining > 0 {
                left.push((resource.plural, remaining));
            }
        }
        Ok(left)
    }
}

impl Controller for Namespaces {
    const NAME: &'static str = "namespace";

    fn client(&self) -> &Client {
        &self.client
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::itself(Resource::core("namespaces"))]
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let namespace = match self
            .client
            .get(&Resource::core("namespaces"), None, &key.name)
            .await
        {
            Ok(namespace) => namespace,
            Err(status) if status.is_not_found() => return Ok(Next::Wait),
            Err(status) => return Err(status.into()),
        };
        if namespace["metadata"]["deletionTimestamp"].is_null() || !has_finalizer(&namespace) {
            return Ok(Next::Wait);
        }
        let left = self.empty(&key.name).await?;
        if !left.is_empty() {
            tracing::debug!(namespace = key.name, ?left, "not empty yet");
            return Ok(Next::After(RETRY));
        }
        match self
            .client
            .finalize_namespace(without_finalizer(&namespace))
            .await
        {
            Ok(_) => Ok(Next::Wait),
            Err(status) if status.is_not_found() => Ok(Next::Wait),
            Err(status) => Err(status.into()),
        }
    }
}

fn has_finalizer(namespace: &Value) -> bool {
    namespace["spec"]["finalizers"]
        .as_array()
        .is_some_and(|list| list.iter().any(|name| name == FINALIZER))
}

/// The namespace without our finalizer; those of others stay.
fn without_finalizer(namespace: &Value) -> Value {
    let mut namespace = namespace.clone();
    let others: Vec<Value> = namespace["spec"]["finalizers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|name| *name != FINALIZER)
        .cloned()
        .collect();
    namespace["spec"]["finalizers"] = json!(others);
    namespace
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_finalizer_goes() {
        let namespace = json!({"spec": {"finalizers": ["kubernetes", "example.com/other"]}});
        assert!(has_finalizer(&namespace));
        let after = without_finalizer(&namespace);
        assert_eq!(after["spec"]["finalizers"], json!(["example.com/other"]));
        assert!(!has_finalizer(&after));
        assert!(!has_finalizer(&json!({})));
    }
}
