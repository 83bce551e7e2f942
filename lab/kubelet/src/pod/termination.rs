//! The end of containers: preStop, SIGTERM, patience, SIGKILL.

use std::{path::Path, time::Duration};

use k8s_openapi::api::core::v1::Container;
use tokio::{
    io::AsyncReadExt,
    net::UnixStream,
    sync::watch,
    time::{Instant, sleep_until, timeout, timeout_at},
};

use crate::{cgroup, context::Context, exec, shim::Exit};

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
    let read = std::fs::read(dir.join("exit.json")).ok();
    read.and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_else(|| Exit {
            code: 137,
            signal: Some(9),
            finished_at: jiff::Timestamp::now(),
        })
}

/// Ends a container. `deadline` may be moved while this waits (a second, more urgent deletion).
pub(crate) async fn stop(
    context: &Context,
    pod_uid: &str,
    container: Option<&Container>,
    id: &str,
    mut deadline: watch::Receiver<Instant>,
) {
    let dir = context.paths.container(id);
    let hook = container.and_then(|container| container.lifecycle.as_ref()?.pre_stop.as_ref());
    let hook_command = hook.and_then(|hook| hook.exec.as_ref()?.command.clone());
    let by = *deadline.borrow();
    if let Some(command) = hook_command {
        let patience = by.saturating_duration_since(Instant::now());
        let _ = timeout(patience, exec::capture(context, id, &command, patience)).await;
    }
    if let Some(seconds) = hook
        .and_then(|hook| hook.sleep.as_ref())
        .map(|sleep| sleep.seconds)
    {
        let until = Instant::now() + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let _ = timeout_at(by, sleep_until(until)).await;
    }
    signal(context, id, "TERM").await;
    loop {
        let by = *deadline.borrow_and_update();
        tokio::select! {
            () = ended(&dir) => return,
            () = sleep_until(by) => break,
            Ok(()) = deadline.changed() => {}
        }
    }
    signal(context, id, "KILL").await;
    cgroup::kill(pod_uid, id);
    let _ = timeout(KILL_WITHIN, ended(&dir)).await;
}

async fn signal(context: &Context, id: &str, signal: &'static str) {
    let (runtime, id) = (context.paths.runtime(), id.to_owned());
    let sent = tokio::task::spawn_blocking(move || crate::crun::kill(&runtime, &id, signal)).await;
    if let Ok(Err(error)) = sent {
        tracing::debug!(%error, signal, "cannot signal a container");
    }
}
