//! The last events, bounded by number, memory and age.
//!
//! One writer, many readers. Events lie in chunks whose slots are written once: the writer fills a slot and says so in one store,
//! readers of the chunk need no lock. Only the list of chunks has one; the writer takes it once per [`CHUNK`] events, readers
//! for as long as it takes to copy a pointer. A reader keeps the chunk it is in and no other, so that a slow one costs a chunk of
//! memory, loses what was let go meanwhile, and is told how many.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use crate::event::Event;
use crate::flow::Time;

/// Events of a chunk; what is let go is let go by chunks.
pub const CHUNK: usize = 64;

/// What the ring may hold; of each bound, the ring may fall short by one [`CHUNK`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Events; at least two chunks are kept.
    pub events: usize,
    /// Bytes, by [`Event::size`].
    pub bytes: usize,
    /// Age.
    pub age: Option<Duration>,
}

impl Default for Limits {
    /// As many events as Hubble has by default, and room for any of them.
    fn default() -> Self {
        Self {
            events: 4095,
            bytes: 64 << 20,
            age: None,
        }
    }
}

/// What the ring holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Time of the oldest event that is kept; none: there is none.
    pub oldest: Option<Time>,
    /// Time of the newest.
    pub newest: Option<Time>,
    /// Events that are kept.
    pub events: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Events that were ever written.
    pub seen: u64,
}

#[derive(Debug)]
struct Chunk {
    /// Number of its first event.
    first: u64,
    slots: [OnceLock<Event>; CHUNK],
    filled: AtomicUsize,
    bytes: AtomicUsize,
    newest: AtomicI64,
}

impl Chunk {
    fn new(first: u64) -> Arc<Self> {
        Arc::new(Self {
            first,
            slots: [const { OnceLock::new() }; CHUNK],
            filled: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            newest: AtomicI64::new(i64::MIN),
        })
    }

    fn filled(&self) -> &[OnceLock<Event>] {
        &self.slots[..self.filled.load(Ordering::Acquire).min(CHUNK)]
    }

    fn newest(&self) -> i64 {
        self.newest.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Shared {
    /// Never empty; numbers follow each other without gaps.
    chunks: RwLock<VecDeque<Arc<Chunk>>>,
    seen: AtomicU64,
}

impl Shared {
    fn with<T>(&self, look: impl FnOnce(&VecDeque<Arc<Chunk>>) -> T) -> T {
        look(&self.chunks.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The chunk with the event of this number, or else the oldest.
    fn chunk(&self, number: u64) -> Option<Arc<Chunk>> {
        self.with(|chunks| {
            let oldest = chunks.front()?;
            let index = number.saturating_sub(oldest.first) / CHUNK as u64;
            chunks.get(usize::try_from(index).ok()?).cloned()
        })
    }
}

/// The readers' end; clones share the ring.
#[derive(Clone, Debug)]
pub struct Ring(Arc<Shared>);

/// The writer's end: there is one.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    current: Arc<Chunk>,
    limits: Limits,
    bytes: usize,
}

/// An empty ring.
#[must_use]
pub fn ring(limits: Limits) -> (Writer, Ring) {
    let current = Chunk::new(0);
    let shared = Arc::new(Shared {
        chunks: RwLock::new(VecDeque::from([current.clone()])),
        seen: AtomicU64::new(0),
    });
    (
        Writer {
            shared: shared.clone(),
            current,
            limits,
            bytes: 0,
        },
        Ring(shared),
    )
}

impl Writer {
    /// Adds an event; `now` is what ages are measured by.
    pub fn push(&mut self, event: Event, now: Time) {
        let mut index = self.current.filled.load(Ordering::Relaxed);
        if index >= CHUNK {
            self.current = Chunk::new(self.current.first + CHUNK as u64);
            self.update(now, Some(self.current.clone()));
            index = 0;
        }
        let size = event.size();
        let time = event.time().unwrap_or(now);
        self.current.newest.fetch_max(time.0, Ordering::Relaxed);
        self.current.bytes.fetch_add(size, Ordering::Relaxed);
        self.bytes += size;
        if let Some(slot) = self.current.slots.get(index) {
            // The slot is empty: there is one writer, and it counts.
            let _ = slot.set(event);
        }
        self.current.filled.store(index + 1, Ordering::Release);
        self.shared.seen.fetch_add(1, Ordering::Release);
        if self.bytes > self.limits.bytes {
            self.update(now, None);
        }
    }

    /// Lets go what is too old; to be called now and then when nothing is written.
    pub fn expire(&mut self, now: Time) {
        self.update(now, None);
    }

    /// Adds a chunk, and lets go what the limits do not allow. The current chunk stays.
    fn update(&mut self, now: Time, added: Option<Arc<Chunk>>) {
        let age = self
            .limits
            .age
            .map(|age| i64::try_from(age.as_nanos()).unwrap_or(i64::MAX));
        let mut gone = Vec::new();
        {
            let mut chunks = self.shared.chunks.write().unwrap_or_else(PoisonError::into_inner);
            chunks.extend(added);
            while chunks.len() > 1 {
                let Some(oldest) = chunks.front() else { break };
                let many = chunks.len() > 2 && chunks.len() * CHUNK > self.limits.events;
                let large = self.bytes > self.limits.bytes;
                let old = age.is_some_and(|age| oldest.newest() < now.0.saturating_sub(age));
                if !(many || large || old) {
                    break;
                }
                self.bytes -= oldest.bytes.load(Ordering::Relaxed).min(self.bytes);
                gone.extend(chunks.pop_front());
            }
        }
        // Freed without the lock: it takes a while.
        drop(gone);
    }
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the oldest event that is kept.
    Oldest,
    /// With the next that is written.
    Next,
    /// With the first chunk that has an event of this time or later.
    Since(Time),
}

impl Ring {
    /// A reader.
    #[must_use]
    pub fn reader(&self, start: Start) -> Reader {
        let next = match start {
            Start::Oldest => self.oldest(),
            Start::Next => self.seen(),
            Start::Since(time) => self
                .0
                .with(|chunks| {
                    let chunk = chunks.iter().find(|chunk| chunk.newest() >= time.0);
                    chunk.map(|chunk| chunk.first)
                })
                .unwrap_or_else(|| self.seen()),
        };
        Reader {
            shared: self.0.clone(),
            chunk: None,
            next,
        }
    }

    /// A reader that begins with the last events of which `number` match.
    #[must_use]
    pub fn last(&self, number: u64, matches: impl Fn(&Event) -> bool) -> Reader {
        let mut next = self.seen();
        let mut left = number;
        let chunks: Vec<Arc<Chunk>> = self.0.with(|chunks| chunks.iter().rev().cloned().collect());
        'search: for chunk in chunks {
            for (index, slot) in chunk.filled().iter().enumerate().rev() {
                let number = chunk.first + index as u64;
                if left == 0 {
                    break 'search;
                }
                // What was written since is left to the reader.
                if number < next && slot.get().is_some_and(&matches) {
                    left -= 1;
                    next = number;
                }
            }
        }
        Reader {
            shared: self.0.clone(),
            chunk: None,
            next,
        }
    }

    /// Number of events that were ever written.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.0.seen.load(Ordering::Acquire)
    }

    /// What it holds now.
    #[must_use]
    pub fn window(&self) -> Window {
        let chunks = self.0.with(VecDeque::clone);
        let mut window = Window {
            seen: self.seen(),
            ..Window::default()
        };
        for chunk in &chunks {
            window.events += chunk.filled().len() as u64;
            window.bytes += chunk.bytes.load(Ordering::Relaxed) as u64;
        }
        let time = |slots: &[OnceLock<Event>]| slots.iter().find_map(|slot| slot.get()?.time());
        window.oldest = chunks.iter().find_map(|chunk| time(chunk.filled()));
        window.newest = chunks
            .iter()
            .map(|chunk| chunk.newest())
            .max()
            .filter(|time| *time != i64::MIN)
            .map(Time);
        window
    }

    fn oldest(&self) -> u64 {
        self.0
            .with(|chunks| chunks.front().map_or(0, |chunk| chunk.first))
    }
}

/// What a reader is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// The next event.
    Event(Event),
    /// So many were let go before they were read.
    Lost(u64),
    /// Nothing more for now.
    Empty,
}

/// Reads at its own pace.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    chunk: Option<Arc<Chunk>>,
    next: u64,
}

impl Reader {
    /// What comes next; never waits.
    #[must_use]
    pub fn read(&mut self) -> Read {
        let inside = |chunk: &Chunk, next: u64| (chunk.first..chunk.first + CHUNK as u64).contains(&next);
        if !self.chunk.as_ref().is_some_and(|chunk| inside(chunk, self.next)) {
            self.chunk = self.shared.chunk(self.next);
        }
        let Some(chunk) = &self.chunk else {
            return Read::Empty;
        };
        if chunk.first > self.next {
            let lost = chunk.first - self.next;
            self.next = chunk.first;
            return Read::Lost(lost);
        }
        let index = usize::try_from(self.next - chunk.first).unwrap_or(CHUNK);
        match chunk.filled().get(index).and_then(OnceLock::get) {
            Some(event) => {
                self.next += 1;
                Read::Event(event.clone())
            }
            None => Read::Empty,
        }
    }
}
