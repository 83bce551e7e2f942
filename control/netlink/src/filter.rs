//! BPF programs that are filters of a device's clsact qdisc.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption};

use crate::{Netlink, NetlinkError};

/// Which packets of a device a filter sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FilterDirection {
    /// Those that the device receives.
    Ingress,
    /// Those that it sends.
    Egress,
}

/// A BPF program that is a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Name that was given with the program.
    pub program: String,
    /// Number of the program in the kernel.
    pub program_id: u32,
    /// Which packets.
    pub direction: FilterDirection,
}

impl Netlink {
    /// The BPF programs that are filters of a device now; none when it has no clsact qdisc, or is gone.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub async fn filters(&self, index: u32) -> Result<Vec<Filter>, NetlinkError> {
        let mut filters = Vec::new();
        for (direction, minor) in [
            (FilterDirection::Ingress, TcHandle::MIN_INGRESS),
            (FilterDirection::Egress, TcHandle::MIN_EGRESS),
        ] {
            let mut message = TcMessage::default();
            message.header.index = index.cast_signed();
            message.header.parent = TcHandle {
                major: TcHandle::CLSACT.major,
                minor,
            };
            let answers = self
                .dump("list filters", RouteNetlinkMessage::GetTrafficFilter(message))
                .await?;
            filters.extend(answers.iter().filter_map(|answer| filter_of(answer, direction)));
        }
        Ok(filters)
    }
}

fn filter_of(answer: &RouteNetlinkMessage, direction: FilterDirection) -> Option<Filter> {
    let RouteNetlinkMessage::NewTrafficFilter(message) = answer else {
        return None;
    };
    let options = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    })?;
    let (mut program, mut program_id) = (String::new(), None);
    for option in options {
        match option {
            TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => program.clone_from(name),
            TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => program_id = Some(*id),
            _ => {}
        }
    }
    // Each priority is listed a second time, without its filters.
    Some(Filter {
        program,
        program_id: program_id?,
        direction,
    })
}
