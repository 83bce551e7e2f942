//! Prints what an agent would be told: `cargo run -p seta-k8s --example watch -- KUBECONFIG NODE`.

use std::time::Duration;

use seta_k8s::{Access, Cluster};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(path), Some(node)) = (args.next(), args.next()) else {
        return Err("usage: watch KUBECONFIG NODE".into());
    };
    let access = Access::Kubeconfig {
        path: path.into(),
        context: None,
    };
    let cluster = Cluster::connect(&access, "watch-example").await?;
    println!("API server {}", cluster.version().await?);
    cluster.wait_for_crds(Duration::from_secs(30)).await?;
    let mut watches = cluster.watch(&node);
    let mut health = watches.health();
    loop {
        tokio::select! {
            input = watches.next() => println!("{:?}", input?),
            Ok(()) = health.changed() => println!("health {:?}", *health.borrow_and_update()),
        }
    }
}
