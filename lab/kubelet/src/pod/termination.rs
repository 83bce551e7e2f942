//! The end of containers: preStop, SIGTERM, patience, SIGKILL.

use std::{net::IpAddr, path::Path, time::Duration};

use k8s_openapi::api::core::v1::Container;
use tokio::{
    io::AsyncReadExt,
    net::UnixStream,
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::hook;
use crate::{cgroup, context::Context, shim::Exit};

/// Where a shim writes how its container ended.
pub(crate) const EXIT: &str = "exit.json";
/// How long a container may take to vanish after SIGKILL.
const KILL_WITHIN: Duration = Duration::from_secs(10);

/// Waits until a container's shim is gone, which is after it wrote how the container ended.
pub(crate) async fn ended(dir: &Path) {
    // A socket that refuses has no shim behind it any more.
    if let Ok(mut shim) = UnixStream::connect(dir.join("shim.sock")).await {
        let _ = shim.read(&mut [0]).await;
    }
}

/// How a container ended, once its shim is gone. A shim that was killed left no word.
pub(crate) fn exit(dir: &Path) -> Exit {
    let read = std::fs::read(dir.join(EXIT)).ok();
    read.and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_else(|| Exit {
            code: 137,
            signal: Some(9),
            finished_at: jiff::Timestamp::now(),
        })
}

/// A container that is to end.
pub(crate) struct Victim<'a> {
    pub(crate) pod_uid: &'a str,
    /// Its specification, unless the pod's object is gone.
    pub(crate) container: Option<&'a Container>,
    pub(crate) id: &'a str,
    /// Where its hooks reach it.
    pub(crate) address: Option<IpAddr>,
}

/// Ends a container. `deadline` may be moved while this waits (a second, more urgent deletion). Returns why its preStop hook
/// failed, if it did: the container ends all the same.
pub(crate) async fn stop(
    context: &Context,
    victim: Victim<'_>,
    mut deadline: watch::Receiver<Instant>,
) -> Option<String> {
    let id = victim.id;
    let dir = context.paths.container(id);
    let failure = pre_stop(context, &victim, &mut deadline).await;
    signal(context, id, "TERM").await;
    loop {
        let by = *deadline.borrow_and_update();
        tokio::select! {
            () = ended(&dir) => return failure,
            () = sleep_until(by) => break,
            Ok(()) = deadline.changed() => {}
        }
    }
    signal(context, id, "KILL").await;
    cgroup::kill(victim.pod_uid, id);
    let _ = timeout(KILL_WITHIN, ended(&dir)).await;
    failure
}

/// Runs the preStop hook, at most until the deadline.
async fn pre_stop(
    context: &Context,
    victim: &Victim<'_>,
    deadline: &mut watch::Receiver<Instant>,
) -> Option<String> {
    let container = victim.container?;
    let hook = container.lifecycle.as_ref()?.pre_stop.as_ref()?;
    let patience = deadline.borrow().saturating_duration_since(Instant::now());
    // Without any patience, hooks are left out, as the kubelet does.
    if patience.is_zero() {
        return None;
    }
    let mut run = std::pin::pin!(hook::run(
        context,
        container,
        hook,
        victim.id,
        victim.address,
        patience
    ));
    loop {
        let by = *deadline.borrow_and_update();
        tokio::select! {
            result = &mut run => return result.err(),
            () = sleep_until(by) => return Some("it did not end within the grace period".to_owned()),
            Ok(()) = deadline.changed() => {}
        }
    }
}

/// Kills what is left of a container whose shim was killed: nobody else looks after it any more, and it may hold what the next
/// attempt needs.
pub(crate) async fn kill_remains(context: &Context, pod_uid: &str, id: &str) {
    if context.paths.container(id).join(EXIT).exists() {
        return;
    }
    signal(context, id, "KILL").await;
    cgroup::kill(pod_uid, id);
}

async fn signal(context: &Context, id: &str, signal: &'static str) {
    let (runtime, id) = (context.paths.runtime(), id.to_owned());
    let sent = tokio::task::spawn_blocking(move || crate::crun::kill(&runtime, &id, signal)).await;
    if let Ok(Err(error)) = sent {
        tracing::debug!(%error, signal, "cannot signal a container");
    }
}
