//! Getting a number for a label set: creating a CiliumIdentity is the compare-and-set, its name the number.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::ListParams;
use model::identity::{Allocation, AllocationError, Identity, IdentityIndex};
use model::inputs::CiliumIdentity;
use model::labels::{Labels, POD_NAMESPACE};

use crate::client::Cluster;
use crate::error::{RequestError, RequestErrorKind, request};
use crate::{convert, types};

/// How often another number is tried when the chosen one turns out to be taken.
const ATTEMPTS: u32 = 16;

/// No number was got.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// None could be chosen.
    #[error(transparent)]
    Allocation(#[from] AllocationError),
    /// The API server refused or did not answer.
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// The number of a label set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The number.
    pub identity: Identity,
    /// Objects that were learned on the way and that the watch may not have reported yet.
    pub learned: Vec<CiliumIdentity>,
}

impl Cluster {
    /// Finds the number of `labels`, or creates an object with a new one.
    ///
    /// When two nodes create one for the same labels at the same moment, both look again and take the one that
    /// [`IdentityIndex::lookup`] prefers. One of them may have looked too early; it learns of the other by its watch,
    /// after which `lookup` gives another number than the endpoint has.
    ///
    /// # Errors
    /// When every number is taken, `labels` is empty, or the API server refuses or does not answer.
    pub async fn resolve_identity(
        &self,
        known: &IdentityIndex,
        labels: &Labels,
        mut random: impl FnMut() -> u64,
    ) -> Result<Resolved, ResolveError> {
        let mut learned = IdentityIndex::new();
        let mut objects = Vec::new();
        for _ in 0..ATTEMPTS {
            let number = match known.allocate(labels, random())? {
                Allocation::Existing(identity) => {
                    return Ok(Resolved {
                        identity,
                        learned: objects,
                    });
                }
                Allocation::Create(number) => number,
            };
            if let Some(identity) = learned.lookup(labels) {
                return Ok(Resolved {
                    identity,
                    learned: objects,
                });
            }
            if learned.labels(number).is_some() {
                continue;
            }
            match self.claim(number, labels).await? {
                Claim::Taken(object) => {
                    learned.upsert(object.clone());
                    objects.push(object);
                }
                Claim::Vanished => {}
                Claim::Ours(object) => {
                    let mut rivals = self.identities_like(labels).await?;
                    if !rivals.iter().any(|rival| rival.identity == object.identity) {
                        rivals.push(object);
                    }
                    let mut index = IdentityIndex::new();
                    for rival in &rivals {
                        index.upsert(rival.clone());
                    }
                    let identity = index.lookup(labels).unwrap_or(number);
                    objects.append(&mut rivals);
                    return Ok(Resolved {
                        identity,
                        learned: objects,
                    });
                }
            }
        }
        let kind = RequestErrorKind::Contended { attempts: ATTEMPTS };
        Err(RequestError {
            verb: "create",
            object: "CiliumIdentity".to_owned(),
            kind,
        }
        .into())
    }

    /// Creates the object of a number, unless there is one.
    async fn claim(&self, number: Identity, labels: &Labels) -> Result<Claim, RequestError> {
        let api: Api<types::CiliumIdentity> = Api::all(self.client.clone());
        let name = number.0.to_string();
        let object = format!("CiliumIdentity {name}");
        let unusable = || RequestError {
            verb: "use",
            object: object.clone(),
            kind: RequestErrorKind::Unusable("its name is not the number of an identity"),
        };
        match request(
            "create",
            &object,
            api.create(&self.post(), &identity_object(&name, labels)),
        )
        .await
        {
            Ok(created) => convert::cilium_identity(&created)
                .map(Claim::Ours)
                .ok_or_else(unusable),
            Err(error) if error.is_already_exists() => {
                match request("get", &object, api.get_opt(&name)).await? {
                    Some(taken) => convert::cilium_identity(&taken)
                        .map(Claim::Taken)
                        .ok_or_else(unusable),
                    None => Ok(Claim::Vanished),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Objects for exactly these labels. Only those of the same namespace are asked for.
    async fn identities_like(&self, labels: &Labels) -> Result<Vec<CiliumIdentity>, RequestError> {
        let api: Api<types::CiliumIdentity> = Api::all(self.client.clone());
        let params = match labels.namespace() {
            Some(namespace) => ListParams::default().labels(&format!("{POD_NAMESPACE}={namespace}")),
            None => ListParams::default(),
        };
        let list = request("list", "CiliumIdentities", api.list(&params)).await?;
        let objects = list.items.iter().filter_map(convert::cilium_identity);
        Ok(objects.filter(|object| object.labels == *labels).collect())
    }
}

/// What came of creating an object.
enum Claim {
    /// It is ours.
    Ours(CiliumIdentity),
    /// The number stands for something already.
    Taken(CiliumIdentity),
    /// The number was taken, and is free again.
    Vanished,
}

fn identity_object(name: &str, labels: &Labels) -> types::CiliumIdentity {
    let namespace = labels
        .namespace()
        .map(|namespace| (POD_NAMESPACE.to_owned(), namespace.to_owned()));
    types::CiliumIdentity {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: namespace.map(|label| BTreeMap::from([label])),
            ..ObjectMeta::default()
        },
        spec: types::CiliumIdentityFields {
            security_labels: labels.to_security_map(),
        },
    }
}

#[cfg(test)]
mod tests;
