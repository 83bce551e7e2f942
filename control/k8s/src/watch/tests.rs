use futures::stream;
use k8s_openapi::api::core::v1::Namespace;
use kube::runtime::watcher::{Error, Event};

use super::*;

fn object(name: &str) -> Namespace {
    Namespace {
        metadata: kube::api::ObjectMeta {
            name: Some(name.into()),
            ..Default::default()
        },
        ..Default::default()
    }
}

fn upsert(name: &str) -> Change<String> {
    Change::Upsert(name.to_owned())
}

fn remove(name: &str) -> Change<String> {
    Change::Remove(ObjectName::cluster(name))
}

/// `bad…` cannot be converted.
fn convert(object: &Namespace) -> Option<String> {
    Some(object.name_any()).filter(|name| object.labels().is_empty() && !name.starts_with("bad"))
}

#[test]
fn a_new_list_shows_what_has_gone() {
    let mut tracker = Tracker::default();
    let mut handle = |event| tracker.handle(event, &convert);
    assert_eq!(handle(Event::Init), []);
    assert_eq!(handle(Event::InitApply(object("a"))), [upsert("a")]);
    assert_eq!(handle(Event::InitApply(object("b"))), [upsert("b")]);
    assert_eq!(
        handle(Event::InitApply(object("bad"))),
        [],
        "not usable, not reported"
    );
    assert_eq!(handle(Event::InitDone), [Change::Synced]);
    assert_eq!(handle(Event::Apply(object("c"))), [upsert("c")]);
    assert_eq!(handle(Event::Delete(object("a"))), [remove("a")]);
    assert_eq!(handle(Event::Delete(object("a"))), [], "gone already");
    assert_eq!(handle(Event::Delete(object("bad"))), [], "never reported");
    // The connection broke for long: b was removed and d made.
    assert_eq!(handle(Event::Init), []);
    assert_eq!(handle(Event::InitApply(object("c"))), [upsert("c")]);
    assert_eq!(handle(Event::InitApply(object("d"))), [upsert("d")]);
    assert_eq!(handle(Event::InitDone), [remove("b"), Change::Synced]);
}

#[test]
fn a_list_that_breaks_off_removes_nothing() {
    let mut tracker = Tracker::default();
    for event in [
        Event::Init,
        Event::InitApply(object("a")),
        Event::InitDone,
        Event::Init,
    ] {
        tracker.handle(event, &convert);
    }
    assert_eq!(tracker.handle(Event::Init, &convert), []);
    assert_eq!(
        tracker.handle(Event::InitApply(object("a")), &convert),
        [upsert("a")]
    );
    assert_eq!(tracker.handle(Event::InitDone, &convert), [Change::Synced]);
}

#[test]
fn what_becomes_unusable_counts_as_gone() {
    let mut tracker = Tracker::default();
    assert_eq!(tracker.handle(Event::Apply(object("a")), &convert), [upsert("a")]);
    let mut unusable = object("a");
    unusable.labels_mut().insert("x".into(), "y".into());
    assert_eq!(tracker.handle(Event::Apply(unusable), &convert), [remove("a")]);
}

#[tokio::test]
async fn failures_are_reported_and_tried_again() {
    let (events_tx, mut events) = mpsc::channel(16);
    let (health_tx, health) = watch::channel(BTreeMap::from([(Kind::Namespace, WatchState::Starting)]));
    let feed = Feed {
        kind: Kind::Namespace,
        events: events_tx,
        health: health_tx,
    };
    // The health at each step is what it was when the event before it had been handled.
    let seen = std::sync::Mutex::new(Vec::new());
    let script = [
        Err(Error::NoResourceVersion),
        Err(Error::NoResourceVersion),
        Ok(Event::Init),
        Ok(Event::InitApply(object("a"))),
        Ok(Event::InitDone),
        Err(Error::NoResourceVersion),
        Ok(Event::Apply(object("b"))),
    ];
    let objects = stream::iter(script).inspect(|_| {
        seen.lock()
            .unwrap()
            .push(health.borrow()[&Kind::Namespace].clone());
    });
    let wrap = |change| {
        Input::Namespace(match change {
            Change::Upsert(name) => Change::Upsert(inputs::Namespace {
                name,
                ..Default::default()
            }),
            Change::Remove(name) => Change::Remove(name),
            Change::Synced => Change::Synced,
        })
    };
    feed.run(objects, convert, wrap).await;

    let failing = |failures| WatchState::Failing {
        failures,
        error: Error::NoResourceVersion.to_string(),
    };
    let expected = [
        WatchState::Starting,
        failing(1),
        failing(2),
        failing(2),
        failing(2),
        WatchState::Synced,
        failing(1),
    ];
    assert_eq!(
        *seen.lock().unwrap(),
        expected,
        "a list that has only begun is no recovery"
    );
    assert_eq!(health.borrow()[&Kind::Namespace], WatchState::Synced);
    let mut names = Vec::new();
    while let Some(Input::Namespace(change)) = events.recv().await {
        names.push(match change {
            Change::Upsert(namespace) => namespace.name,
            Change::Remove(name) => format!("-{name}"),
            Change::Synced => "synced".into(),
        });
    }
    assert_eq!(names, ["a", "synced", "b"]);
}

#[tokio::test]
async fn it_ends_with_its_receiver() {
    let (events_tx, events) = mpsc::channel(1);
    let (health_tx, _health) = watch::channel(BTreeMap::new());
    let feed = Feed {
        kind: Kind::Namespace,
        events: events_tx,
        health: health_tx,
    };
    drop(events);
    let endless = stream::repeat_with(|| Ok(Event::Apply(object("a"))));
    let run = feed.run(
        endless,
        |object: &Namespace| Some(convert::namespace(object)),
        Input::Namespace,
    );
    tokio::time::timeout(Duration::from_secs(5), run)
        .await
        .expect("it ends");
}

#[test]
fn pauses_grow_to_a_bound() {
    let millis = |failures, random| pause(failures, random).as_millis();
    assert_eq!((millis(1, 0), millis(1, u32::MAX)), (50, 100));
    assert_eq!((millis(4, 0), millis(4, u32::MAX)), (400, 800));
    assert_eq!(millis(u32::MAX, u32::MAX), 15_000);
}
