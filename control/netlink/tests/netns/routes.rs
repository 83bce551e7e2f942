//! Routes: planned, applied, and nobody else's touched.

use seta_netlink::{Netlink, Route, RouteChange, VethEnd, plan_routes};

use crate::harness::{Namespace, namespace};

/// A namespace with one device that is up.
async fn with_device(purpose: &str) -> Option<(Namespace, Netlink, u32)> {
    let ns = namespace(purpose)?;
    let netlink = ns.connect().await;
    let end = |name| VethEnd {
        name,
        mac: None,
        netns: None,
    };
    netlink.add_veth(&end("dev"), &end("peer"), 1500).await.unwrap();
    for name in ["peer", "dev"] {
        netlink
            .set_up(netlink.link_by_name(name).await.unwrap().index, true)
            .await
            .unwrap();
    }
    let index = netlink.link_by_name("dev").await.unwrap().index;
    for net in ["fc00:1::1/128", "192.0.2.1/32"] {
        netlink.add_address(index, net.parse().unwrap()).await.unwrap();
    }
    for net in ["fc00:1::/64", "192.0.2.0/24"] {
        netlink
            .add_route(&Route {
                protocol: 4,
                ..Route::new(net.parse().unwrap(), index)
            })
            .await
            .unwrap();
    }
    Some((ns, netlink, index))
}

async fn reconcile(netlink: &Netlink, want: &[Route]) -> Vec<RouteChange> {
    let plan = plan_routes(&netlink.routes().await.unwrap(), want);
    let failed = netlink.apply_routes(plan.clone()).await;
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(
        plan_routes(&netlink.routes().await.unwrap(), want),
        [],
        "converges in one pass"
    );
    plan
}

#[tokio::test]
async fn routes_become_as_wanted() {
    let Some((ns, netlink, dev)) = with_device("routes").await else {
        return;
    };
    let via = |net: &str, via: &str| Route {
        via: Some(via.parse().unwrap()),
        ..Route::new(net.parse().unwrap(), dev)
    };
    let mut want = vec![
        via("fd00:10:244:1::/64", "fc00:1::2"),
        Route {
            mtu: Some(1400),
            source: Some("fc00:1::1".parse().unwrap()),
            ..via("fd00:10:244:2::/64", "fc00:1::3")
        },
        Route {
            metric: 77,
            ..Route::new("fd00:10:244:3::/64".parse().unwrap(), dev)
        },
        Route {
            table: 1000,
            ..via("fd00:10:244:1::/64", "fc00:1::2")
        },
        Route::default_via("fc00:1::9".parse().unwrap(), dev),
        via("10.1.0.0/16", "192.0.2.2"),
        Route::new("10.2.0.0/16".parse().unwrap(), dev),
    ];
    assert_eq!(reconcile(&netlink, &want).await.len(), want.len());
    assert_eq!(netlink.default_devices().await.unwrap(), [dev]);
    let shown = ns
        .run("ip", &["-6", "route", "show", "fd00:10:244:2::/64"])
        .unwrap();
    for part in [
        "via fc00:1::3",
        "dev dev",
        "proto 83",
        "src fc00:1::1",
        "mtu 1400",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }

    // Another next hop, a next hop where there was none, and none where there was one.
    want[0].via = Some("fc00:1::22".parse().unwrap());
    want[1].via = None;
    want[2].via = Some("fc00:1::4".parse().unwrap());
    want.truncate(3);
    let plan = reconcile(&netlink, &want).await;
    assert_eq!(
        plan.iter()
            .filter(|change| matches!(change, RouteChange::Replace { .. }))
            .count(),
        3,
        "{plan:?}"
    );
    assert_eq!(netlink.our_routes().await.unwrap().len(), 3);
    reconcile(&netlink, &[]).await;
    assert_eq!(netlink.our_routes().await.unwrap(), []);
}

#[tokio::test]
async fn foreign_routes_are_not_touched() {
    let Some((ns, netlink, dev)) = with_device("foreign").await else {
        return;
    };
    ns.run(
        "ip",
        &[
            "-6",
            "route",
            "add",
            "fd00:10:244:1::/64",
            "via",
            "fc00:1::7",
            "dev",
            "dev",
            "proto",
            "static",
        ],
    )
    .unwrap();
    let before = ns.run("ip", &["-6", "route"]).unwrap();
    let want = Route {
        via: Some("fc00:1::2".parse().unwrap()),
        ..Route::new("fd00:10:244:1::/64".parse().unwrap(), dev)
    };
    let failed = netlink
        .apply_routes(plan_routes(&netlink.routes().await.unwrap(), &[want]))
        .await;
    assert!(
        matches!(failed.as_slice(), [(RouteChange::Add(_), error)] if error.is_exists()),
        "{failed:?}"
    );
    reconcile(&netlink, &[]).await;
    assert_eq!(ns.run("ip", &["-6", "route"]).unwrap(), before);
}

#[tokio::test]
async fn a_route_that_cannot_be_is_named_in_the_error() {
    let Some((_ns, netlink, dev)) = with_device("bad").await else {
        return;
    };
    let unreachable = Route {
        via: Some("2001:db8::1".parse().unwrap()),
        ..Route::new("fd00::/64".parse().unwrap(), dev)
    };
    let error = netlink.add_route(&unreachable).await.unwrap_err();
    assert!(error.to_string().contains("fd00::/64 via 2001:db8::1"), "{error}");
    assert!(!netlink.delete_route(&unreachable).await.unwrap());
    assert!(
        netlink
            .add_route(&Route::new("fd00::/64".parse().unwrap(), 4711))
            .await
            .unwrap_err()
            .is_not_found()
    );
}
