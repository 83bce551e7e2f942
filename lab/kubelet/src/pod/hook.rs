//! What a container is asked to do right after its start and right before its end.

use std::{net::IpAddr, time::Duration};

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use tokio::time::sleep;

use super::http;
use crate::{context::Context, exec};

/// Runs one hook of a container. The caller bounds the time; `within` is only what a command is told.
///
/// # Errors
/// Why it failed, for an event. A hook of a kind that is not offered fails too: nothing is passed over in silence.
pub(crate) async fn run(
    context: &Context,
    container: &Container,
    hook: &LifecycleHandler,
    id: &str,
    address: Option<IpAddr>,
    within: Duration,
) -> Result<(), String> {
    if let Some(action) = &hook.exec {
        let command = action.command.clone().unwrap_or_default();
        return match exec::capture(context, id, &command, within).await {
            Ok((0, _)) => Ok(()),
            Ok((code, output)) => Err(format!(
                "command {command:?} exited with {code}: {}",
                output.trim()
            )),
            Err(error) => Err(error.to_string()),
        };
    }
    if let Some(action) = &hook.http_get {
        let address = address.ok_or("the pod has no address")?;
        return http::get(action, container, address).await;
    }
    if let Some(pause) = &hook.sleep {
        sleep(Duration::from_secs(u64::try_from(pause.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err("a hook is exec, httpGet or sleep; others are not offered by the lab".to_owned())
}
