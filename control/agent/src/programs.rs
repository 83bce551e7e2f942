//! The programs on devices, asked of the kernel: pinned links, and on new pods the filters that go before them.

use abi::names::{FROM_POD, FROM_WIRE, TO_POD};
use loader::{Datapath, Direction};
use netlink::{FilterDirection, Netlink};

use crate::kernel::KernelError;

/// What a program runs under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holder {
    /// A tcx link.
    Tcx,
    /// A filter of a clsact qdisc.
    Clsact,
    /// An XDP link in the driver.
    Xdp,
}

/// A program on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The device.
    pub(crate) ifindex: u32,
    /// Name of the program.
    pub(crate) program: &'static str,
    /// Number of the program in the kernel.
    pub(crate) program_id: u32,
    /// Which packets it sees.
    pub(crate) direction: Direction,
    /// What it runs under.
    pub(crate) holder: Holder,
    /// It is one of those that this agent loaded.
    pub(crate) current: bool,
}

/// All links, and the filters of those of `pods` (host-side devices) that do not have both links.
pub(crate) async fn on_devices(
    datapath: &Datapath,
    netlink: &Netlink,
    pods: &[u32],
) -> Result<Vec<Found>, KernelError> {
    let links = datapath.attachments()?.into_iter();
    let mut found: Vec<Found> = links
        .filter_map(|link| {
            Some(Found {
                ifindex: link.ifindex?,
                program: link.program,
                program_id: link.program_id,
                direction: link.direction,
                holder: Holder::Tcx,
                current: link.current,
            })
        })
        .collect();
    found.extend(datapath.wire_attachments()?.into_iter().map(|link| Found {
        ifindex: link.ifindex,
        program: FROM_WIRE,
        program_id: link.program_id,
        direction: Direction::Ingress,
        holder: Holder::Xdp,
        current: link.current,
    }));
    let linked = |found: &[Found], pod, program| {
        found
            .iter()
            .any(|one| one.ifindex == pod && one.program == program)
    };
    let own = datapath.program_infos().unwrap_or_default();
    for pod in pods {
        if linked(&found, *pod, FROM_POD) && linked(&found, *pod, TO_POD) {
            continue;
        }
        for filter in netlink.filters(*pod).await? {
            let Some(program) = [FROM_POD, TO_POD]
                .into_iter()
                .find(|program| *program == filter.program)
            else {
                continue;
            };
            found.push(Found {
                ifindex: *pod,
                program,
                program_id: filter.program_id,
                direction: match filter.direction {
                    FilterDirection::Ingress => Direction::Ingress,
                    FilterDirection::Egress => Direction::Egress,
                },
                holder: Holder::Clsact,
                current: own.iter().any(|info| info.id == filter.program_id),
            });
        }
    }
    Ok(found)
}
