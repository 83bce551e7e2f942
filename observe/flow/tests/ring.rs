//! The ring against a model, its bounds, and readers beside a writer.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use seta_flow::ring::{CHUNK, Read, Start};
use seta_flow::*;

fn event(number: u64) -> Event {
    let time = Time(i64::try_from(number).expect("a small number"));
    Event::Flow(Arc::new(Flow {
        time: Some(time),
        ..Flow::default()
    }))
}

fn number(event: &Event) -> u64 {
    event.time().map(|time| time.0.unsigned_abs()).expect("a time")
}

#[derive(Clone, Debug)]
enum Act {
    Write(u16),
    Read(usize, u16),
    Join(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (1u16..300).prop_map(Act::Write),
        (0usize..3, 1u16..300).prop_map(|(reader, count)| Act::Read(reader, count)),
        (0usize..3).prop_map(Act::Join),
    ]
}

proptest! {
    /// Whatever the order of writes and reads: a reader gets each number once and in order, or is told of its loss.
    #[test]
    fn every_event_is_read_or_counted(acts in prop::collection::vec(act(), 1..60), events in 1usize..600) {
        let (mut writer, ring) = ring(Limits { events, ..Limits::default() });
        let mut readers: Vec<(Reader, u64)> = (0..3).map(|_| (ring.reader(Start::Oldest), 0)).collect();
        let mut written = 0u64;
        for act in acts {
            match act {
                Act::Write(count) => for _ in 0..count {
                    writer.push(event(written), Time(0));
                    written += 1;
                },
                Act::Join(index) => readers[index] = (ring.reader(Start::Next), written),
                Act::Read(index, count) => {
                    let (reader, expected) = &mut readers[index];
                    for _ in 0..count {
                        match reader.read() {
                            Read::Event(event) => {
                                prop_assert_eq!(number(&event), *expected);
                                *expected += 1;
                            }
                            Read::Lost(lost) => {
                                prop_assert!(lost > 0);
                                *expected += lost;
                            }
                            Read::Empty => {
                                prop_assert_eq!(*expected, written);
                                break;
                            }
                        }
                    }
                }
            }
            let window = ring.window();
            prop_assert_eq!(window.seen, written);
            prop_assert!(window.events <= events.max(2 * CHUNK) as u64);
            prop_assert!(window.events + CHUNK as u64 * 2 > written.min(events as u64));
        }
    }

    /// The last `n` that match, against a list.
    #[test]
    fn the_last_that_match(written in 0u64..500, count in 0u64..40, every in 1u64..9) {
        let (mut writer, ring) = ring(Limits::default());
        (0..written).for_each(|n| writer.push(event(n), Time(0)));
        let mut reader = ring.last(count, |event| number(event).is_multiple_of(every));
        let mut got = Vec::new();
        while let Read::Event(event) = reader.read() {
            if number(&event).is_multiple_of(every) {
                got.push(number(&event));
            }
        }
        let mut expected: Vec<u64> = (0..written).filter(|n| n.is_multiple_of(every)).rev().take(count as usize).collect();
        expected.reverse();
        prop_assert_eq!(got, expected);
    }
}

#[test]
fn memory_and_age_are_bounds() {
    let bytes = 200 * event(0).size();
    let (mut writer, ring) = ring(Limits {
        events: 100_000,
        bytes,
        age: Some(Duration::from_nanos(1000)),
    });
    for n in 0..5000u64 {
        writer.push(event(n), Time(n as i64));
        assert!(ring.window().bytes <= bytes as u64);
    }
    assert!(ring.window().events > 200 - CHUNK as u64);
    writer.expire(Time(1_000_000));
    assert!(ring.window().events <= CHUNK as u64);
    assert_eq!(ring.window().newest, Some(Time(4999)));
}

#[test]
fn readers_beside_a_writer_account_for_everything() {
    const EVENTS: u64 = 50_000;
    let (mut writer, ring) = ring(Limits {
        events: 512,
        ..Limits::default()
    });
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let mut reader = ring.reader(Start::Oldest);
                scope.spawn(move || {
                    let mut expected = 0;
                    while expected < EVENTS {
                        match reader.read() {
                            Read::Event(event) => {
                                assert_eq!(number(&event), expected);
                                expected += 1;
                            }
                            Read::Lost(lost) => expected += lost,
                            Read::Empty => std::thread::yield_now(),
                        }
                    }
                    expected
                })
            })
            .collect();
        (0..EVENTS).for_each(|n| writer.push(event(n), Time(0)));
        for reader in readers {
            assert_eq!(reader.join().expect("a reader"), EVENTS);
        }
    });
}

fn drain(ring: &Ring, selection: Selection) -> Vec<u64> {
    let mut stream =
        Subscription::new(ring, &selection, Wanted::Flows(Filters::default())).expect("a selection");
    let mut got = Vec::new();
    while let Step::Item(event) = stream.next(Time(0)) {
        got.push(number(&event));
    }
    got
}

#[test]
fn selections() {
    let (mut writer, ring) = ring(Limits::default());
    (0..100).for_each(|n| writer.push(event(n), Time(0)));
    let of = |number, first, since: Option<i64>, until: Option<i64>| {
        let (since, until) = (since.map(Time), until.map(Time));
        drain(
            &ring,
            Selection {
                number,
                first,
                follow: false,
                since,
                until,
            },
        )
    };
    assert_eq!(of(0, false, None, None), (0..100).collect::<Vec<_>>());
    assert_eq!(of(3, false, None, None), [97, 98, 99]);
    assert_eq!(of(3, true, None, None), [0, 1, 2]);
    assert_eq!(of(3, false, Some(50), None), [50, 51, 52]);
    assert_eq!(of(0, false, Some(97), None), [97, 98, 99]);
    assert_eq!(of(0, false, Some(10), Some(12)), [10, 11, 12]);
    assert_eq!(of(2, false, None, Some(12)), [11, 12]);
    assert_eq!(of(0, false, Some(1000), None), Vec::<u64>::new());
    let both = Selection {
        first: true,
        follow: true,
        ..Selection::default()
    };
    assert!(Subscription::new(&ring, &both, Wanted::Agent).is_err());
    let follow = Selection {
        follow: true,
        ..Selection::default()
    };
    let mut stream =
        Subscription::new(&ring, &follow, Wanted::Flows(Filters::default())).expect("a selection");
    assert_eq!(stream.next(Time(0)), Step::Wait);
    writer.push(event(100), Time(0));
    assert_eq!(stream.next(Time(0)), Step::Item(event(100)));
    assert_eq!(stream.next(Time(0)), Step::Wait);
}

#[test]
fn a_slow_subscriber_is_told_once_a_second_and_at_the_end() {
    let (mut writer, ring) = ring(Limits {
        events: 2 * CHUNK,
        ..Limits::default()
    });
    let follow = Selection {
        follow: true,
        ..Selection::default()
    };
    let mut stream =
        Subscription::new(&ring, &follow, Wanted::Flows(Filters::default())).expect("a selection");
    let mut read = 0u64;
    let mut told = Vec::new();
    let mut written = 0u64;
    for second in 0..20i64 {
        for _ in 0..CHUNK * 4 {
            writer.push(event(written), Time(0));
            written += 1;
        }
        // Four rounds a second.
        let now = Time(second * 250_000_000);
        loop {
            match stream.next(now) {
                Step::Item(Event::Lost(lost)) => told.push(lost),
                Step::Item(_) => read += 1,
                Step::Wait => break,
                Step::End => panic!("a stream that follows has no end"),
            }
        }
    }
    while let Step::Item(Event::Lost(lost)) = stream.next(Time(60_000_000_000)) {
        told.push(lost);
    }
    assert_eq!(read + told.iter().map(|lost| lost.count).sum::<u64>(), written);
    assert!((5..=7).contains(&told.len()), "{told:?}");
    assert!(
        told.iter()
            .all(|lost| lost.source == LostSource::HubbleRing && lost.first <= lost.last)
    );
}
