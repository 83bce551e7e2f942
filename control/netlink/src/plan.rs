//! What has to change so that the routes are as wanted. Pure: sees lists, returns a list.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::{PROTOCOL, Route, TABLE_MAIN};

/// One step towards the wanted routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteChange {
    /// Install.
    Add(Route),
    /// Install in the place of one of ours.
    Replace {
        /// What is there.
        old: Route,
        /// What shall be there.
        new: Route,
    },
    /// Take away one of ours.
    Delete(Route),
}

/// What the kernel tells routes apart by when one replaces another.
type Slot = (u32, IpNet, u32);

fn slot(route: &Route) -> Slot {
    (route.table, route.destination, route.metric)
}

/// The steps from the routes that are there (`have`, whoever installed them) to the ones that we want (`want`).
///
/// Routes of other protocols are never replaced or deleted: where one holds the place of a wanted route, the plan
/// says [`RouteChange::Add`], and applying it fails and tells so. A route that is wanted twice is installed once, as
/// wanted last. What comes new is installed before anything is taken away.
#[must_use]
pub fn plan_routes(have: &[Route], want: &[Route]) -> Vec<RouteChange> {
    let wanted: BTreeMap<Slot, Route> = want
        .iter()
        .map(|route| {
            (
                slot(route),
                Route {
                    protocol: PROTOCOL,
                    ..route.clone()
                },
            )
        })
        .collect();
    let mut ours: BTreeMap<Slot, Vec<&Route>> = BTreeMap::new();
    for route in have.iter().filter(|route| route.protocol == PROTOCOL) {
        ours.entry(slot(route)).or_default().push(route);
    }

    let mut changes = Vec::new();
    let mut deletions = Vec::new();
    for (slot, route) in &wanted {
        let present = ours.remove(slot).unwrap_or_default();
        if present.contains(&route) {
            // Further ones in the same place are next hops that nobody asked for.
            deletions.extend(present.into_iter().filter(|other| *other != route));
        } else if let [old, rest @ ..] = present.as_slice() {
            changes.push(RouteChange::Replace {
                old: (*old).clone(),
                new: route.clone(),
            });
            deletions.extend(rest);
        } else {
            changes.push(RouteChange::Add(route.clone()));
        }
    }
    deletions.extend(ours.into_values().flatten());
    changes.extend(
        deletions
            .into_iter()
            .map(|route| RouteChange::Delete(route.clone())),
    );
    changes
}

/// The devices of default routes in the main table, IPv6 before IPv4 and then by metric, each once.
#[must_use]
pub fn default_devices(routes: &[Route]) -> Vec<u32> {
    let mut defaults: Vec<&Route> = routes
        .iter()
        .filter(|route| route.is_default() && route.table == TABLE_MAIN && route.device != 0)
        .collect();
    defaults.sort_by_key(|route| (route.destination.addr().is_ipv4(), route.metric));
    let mut devices = Vec::new();
    for route in defaults {
        if !devices.contains(&route.device) {
            devices.push(route.device);
        }
    }
    devices
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn route(destination: &str, device: u32) -> Route {
        Route::new(destination.parse().unwrap(), device)
    }

    #[test]
    fn nothing_to_do_when_all_is_there() {
        let routes = [
            route("fd00:10:244:1::/64", 2),
            Route::default_via("fc00::1".parse().unwrap(), 2),
        ];
        assert_eq!(plan_routes(&routes, &routes), []);
    }

    #[test]
    fn a_node_moves_comes_and_goes() {
        let via = |destination, via: &str| Route {
            via: Some(via.parse().unwrap()),
            ..route(destination, 2)
        };
        let (stays, old, new) = (
            via("fd00:1::/64", "fc00::1"),
            via("fd00:2::/64", "fc00::2"),
            via("fd00:2::/64", "fc00::22"),
        );
        let (goes, comes) = (via("fd00:3::/64", "fc00::3"), via("fd00:4::/64", "fc00::4"));
        assert_eq!(
            plan_routes(
                &[stays.clone(), old.clone(), goes.clone()],
                &[comes.clone(), stays, new.clone()]
            ),
            [
                RouteChange::Replace { old, new },
                RouteChange::Add(comes),
                RouteChange::Delete(goes)
            ]
        );
    }

    #[test]
    fn foreign_routes_stay() {
        let foreign = Route {
            protocol: 4,
            ..route("fd00:1::/64", 3)
        };
        assert_eq!(plan_routes(std::slice::from_ref(&foreign), &[]), []);
        let wanted = route("fd00:1::/64", 2);
        assert_eq!(
            plan_routes(&[foreign], std::slice::from_ref(&wanted)),
            [RouteChange::Add(wanted)]
        );
    }

    #[test]
    fn default_routes_name_the_devices() {
        let default = |via: &str, device, metric| Route {
            metric,
            ..Route::default_via(via.parse().unwrap(), device)
        };
        let routes = [
            default("192.0.2.1", 5, 0),
            default("fc00::1", 3, 2048),
            default("fc00::1", 2, 1024),
            Route {
                table: 100,
                ..default("fc00::1", 9, 1)
            },
            route("fd00:1::/64", 8),
            default("192.0.2.1", 2, 10),
        ];
        assert_eq!(default_devices(&routes), [2, 3, 5]);
        assert_eq!(default_devices(&[]), Vec::<u32>::new());
    }

    fn some_routes() -> impl Strategy<Value = Vec<Route>> {
        let one = (
            0..4u8,
            1..3u32,
            0..3u8,
            prop_oneof![Just(PROTOCOL), Just(4)],
            0..2u32,
        )
            .prop_map(|(net, device, via, protocol, metric)| Route {
                protocol,
                metric: 1024 + metric,
                via: (via > 0).then(|| format!("fc00::{via}").parse().unwrap()),
                ..route(&format!("fd00:{net}::/64"), device)
            });
        prop::collection::vec(one, 0..8)
    }

    /// What the kernel does with a change: one route per place, except that additions of others may share it.
    fn apply(have: &mut Vec<Route>, change: &RouteChange) {
        match change {
            RouteChange::Add(new) => have.push(new.clone()),
            RouteChange::Replace { old, new } => {
                let place = have
                    .iter()
                    .position(|route| route == old)
                    .expect("replaces what is there");
                have[place] = new.clone();
            }
            RouteChange::Delete(old) => {
                let place = have
                    .iter()
                    .position(|route| route == old)
                    .expect("deletes what is there");
                have.remove(place);
            }
        }
    }

    proptest! {
        #[test]
        fn plans_converge_and_spare_foreign_routes(mut have in some_routes(), want in some_routes()) {
            have.sort();
            have.dedup();
            let foreign = |routes: &[Route]| -> Vec<Route> {
                routes.iter().filter(|route| route.protocol != PROTOCOL).cloned().collect()
            };
            let before = foreign(&have);
            for change in plan_routes(&have.clone(), &want) {
                apply(&mut have, &change);
            }
            prop_assert_eq!(foreign(&have), before);
            prop_assert_eq!(plan_routes(&have, &want), vec![]);
            for route in &want {
                prop_assert!(have.iter().any(|other| slot(other) == slot(route) && other.protocol == PROTOCOL));
            }
        }
    }
}
