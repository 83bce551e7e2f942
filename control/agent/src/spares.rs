//! Links of pods to come, with their programs attached already: that is what most of the time of an ADD would go to.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use loader::Datapath;
use netlink::{Netlink, Spare};

use crate::kernel::KernelError;

/// Names of spare links begin with this; a pod's link never has an underscore.
pub(crate) const PREFIX: &str = "lxc_";
/// How many are kept. Each is a pair of devices that does nothing.
const COUNT: usize = 8;
/// New ones are made when no pod came for so long: making one holds the kernel's routing lock, which a burst of pods
/// needs itself.
const QUIET: Duration = Duration::from_secs(1);

/// Links that wait for their pods.
#[derive(Debug, Default)]
pub(crate) struct Spares(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    ready: Vec<Spare>,
    last_use: Option<Instant>,
    made: u64,
}

impl Spares {
    /// A link for a pod; none when they are used up.
    pub(crate) fn take(&self) -> Option<Spare> {
        let mut state = self.lock();
        state.last_use = Some(Instant::now());
        state.ready.pop()
    }

    /// Makes missing ones, as long as no pod comes.
    pub(crate) async fn refill(
        &self,
        netlink: &Netlink,
        datapath: &Datapath,
        mtu: u32,
    ) -> Result<(), KernelError> {
        loop {
            let number = {
                let mut state = self.lock();
                let quiet = state.last_use.is_none_or(|last| last.elapsed() >= QUIET);
                if !quiet || state.ready.len() >= COUNT {
                    return Ok(());
                }
                state.made += 1;
                state.made
            };
            let (outside, inside) = (format!("{PREFIX}h{number:x}"), format!("{PREFIX}p{number:x}"));
            let spare = netlink.add_spare(&outside, &inside, mtu).await?;
            match datapath.attach_pod(spare.host_index) {
                Ok(_) => self.lock().ready.push(spare),
                Err(error) => {
                    netlink.delete_link(&outside).await?;
                    return Err(error.into());
                }
            }
        }
    }

    /// Deletes those that a predecessor left: which of them are whole is not known.
    pub(crate) async fn clear(netlink: &Netlink) -> Result<(), KernelError> {
        for link in netlink
            .links()
            .await?
            .into_iter()
            .filter(|link| link.name.starts_with(PREFIX))
        {
            netlink.delete_link(&link.name).await?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
