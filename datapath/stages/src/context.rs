//! A packet at a hook with all that belongs to it, and the borders between stages.
//!
//! A border is a step that the kernel adapter runs as a function which the verifier checks once and alone: otherwise it
//! follows every path through every step after it, and their numbers multiply. Everywhere else a border is a plain call.

use abi::DropReason;
use packet::{Family, Packet};

use crate::{
    Env, Tables, conntrack, icmp_error, icmp_error::Problem, neighbour, neighbour::Handled, parse,
    parse::Parsed, related, report, report::Sighting, verdict::Dropped,
};

/// One value with all three traits, as a function in the kernel takes five arguments at most.
pub trait Context: Packet + Tables + Env + Sized {
    /// [`parse::parse`].
    fn parse<F: Family>(&mut self, parsed: &mut Parsed) -> Result<(), DropReason> {
        parse::parse::<F, Self>(self, parsed)
    }

    /// [`conntrack::look_up`].
    fn look_up(&mut self, parsed: &mut Parsed) -> Result<(), DropReason> {
        conntrack::look_up(self, parsed)
    }

    /// [`related::is_known`].
    fn is_known<F: Family>(&mut self, parsed: &Parsed) -> bool {
        related::is_known::<F, Self>(self, parsed)
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
