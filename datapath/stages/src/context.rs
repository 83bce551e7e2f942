//! A packet at a hook with all that belongs to it, and the borders between stages.
//!
//! A border is a step that the kernel adapter runs as a function which the verifier checks once and alone: otherwise it
//! follows every path through every step after it, and their numbers multiply. Everywhere else a border is a plain call.

use abi::DropReason;
use packet::{Family, Packet};

use crate::{
    Env, Tables, conntrack, icmp_error,
    icmp_error::Problem,
    nat::{self, Translated, Translations, balance, dsr, masquerade},
    neighbour,
    neighbour::Handled,
    parse,
    parse::Parsed,
    related,
    related::Known,
    report,
    report::Sighting,
    service::Services,
    verdict::Dropped,
};

/// One value with all traits, as a function in the kernel takes five arguments at most.
pub trait Context: Packet + Tables + Env + Services + Translations + Sized {
    /// [`parse::parse`].
    fn parse<F: Family>(&mut self, parsed: &mut Parsed) -> Result<(), DropReason> {
        parse::parse::<F, Self>(self, parsed)
    }

    /// [`conntrack::look_up`].
    fn look_up(&mut self, parsed: &mut Parsed) -> Result<(), DropReason> {
        conntrack::look_up(self, parsed)
    }

    /// [`related::is_known`].
    fn is_known<F: Family>(&mut self, parsed: &Parsed) -> Known {
        related::is_known::<F, Self>(self, parsed)
    }

    /// [`balance::from_pod`].
    fn balance(&mut self, parsed: &mut Parsed, flags: u16) -> Result<Translated, DropReason> {
        balance::from_pod(self, parsed, flags)
    }

    /// [`balance::inbound`].
    fn inbound(&mut self, parsed: &mut Parsed, flags: u16) -> Result<Translated, DropReason> {
        balance::inbound(self, parsed, flags)
    }

    /// [`dsr::tell`].
    fn tell(&mut self, parsed: &mut Parsed) -> Result<(), DropReason> {
        dsr::tell(self, parsed)
    }

    /// [`dsr::learn`].
    fn learn(&mut self, parsed: &mut Parsed) -> Result<(), DropReason> {
        dsr::learn(self, parsed)
    }

    /// [`masquerade::masquerade`].
    fn masquerade(&mut self, parsed: &mut Parsed, ifindex: u32) -> Result<(), DropReason> {
        masquerade::masquerade(self, parsed, ifindex)
    }

    /// [`masquerade::outbound`].
    fn outbound(&mut self, parsed: &mut Parsed) -> Result<(), DropReason> {
        masquerade::outbound(self, parsed)
    }

    /// [`nat::error::translate`].
    fn translate_error(&mut self, parsed: &mut Parsed) -> Result<bool, DropReason> {
        nat::error::translate(self, parsed)
    }

    /// [`nat::restore`].
    fn restore(&mut self, parsed: &mut Parsed) -> Result<(), DropReason> {
        nat::restore(self, parsed)
    }

    /// [`nat::revert`].
    fn revert(&mut self, parsed: &mut Parsed) -> Result<(), DropReason> {
        nat::revert(self, parsed)
    }

    /// [`neighbour::from_pod`].
    fn neighbour(&mut self, parsed: &Parsed) -> Result<Handled, DropReason> {
        neighbour::from_pod(self, parsed)
    }

    /// [`icmp_error::answer`].
    fn answer(&mut self, parsed: &Parsed, problem: Problem) -> Result<(), DropReason> {
        icmp_error::answer(self, parsed, problem)
    }

    /// [`report::trace`].
    fn trace(&mut self, parsed: &Parsed, sighting: Sighting) {
        report::trace(self, parsed, sighting);
    }

    /// [`report::dropped`].
    fn dropped(&mut self, dropped: Dropped) {
        report::dropped(self, dropped);
    }
}
