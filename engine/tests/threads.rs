//! The whole server with several threads, under every interleaving that shuttle comes upon: `make model`. The application
//! sleeps now and then, so the loop, or each of two, changes hands; streams wait for their clients, each in its thread, and
//! more threads come for them; a thread plays the watch, another ends the server. A failing seed is named:
//! `SEED=n` runs it again, and the schedule, of which shuttle says where it lies, is played alone by `SEED=n SCHEDULE=path`.
//!
//! Here is how it works: 1. a seed makes peers and a configuration; 2. they are played in some schedules, of a seed, too;
//! 3. what each peer got is held against what it asked for; 4. whenever nobody has anything to do, nothing may lie about that
//! somebody has missed (`World::assert_rest`); who waits for ever is found by shuttle.
#![allow(clippy::unwrap_used)]

mod sim;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bjoern_engine::io::Millis;
use bjoern_engine::{Books, Config, Counters, Server};
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::thread;
use shuttle::{FailurePersistence, MaxSteps, Runner};
use sim::anything::{Anything, Pace, check, script};
use sim::{Act, MAX_YIELDS, Shared, SimNet, yield_now};

const SEEDS: u64 = 2_000;

/// Schedules of one seed that are chosen at random, and those with so few changes that a thread did not ask for.
const AT_RANDOM: usize = 4;
const WITH_FEW_CHANGES: usize = 4;
const CHANGES: usize = 3;

/// For the threads' input buffers lie elsewhere.
const STACK_BYTES: usize = 128 * 1024;

/// How a run ends, other than because nothing is left to happen.
#[derive(Clone, Copy, Debug)]
struct Stop {
    at: Millis,
    graceful: bool,
    /// And at once, a while later.
    then_aborts: Option<Millis>,
}

/// Steps of a run, past which it is said to come to no end: the watch looks on while somebody sleeps for a minute.
const STEPS: usize = 10_000_000;

type Simulated = Server<SimNet, Anything>;

fn run(seed: u64) {
    let world = Shared::new(seed, Vec::new());
    let mut asked = Vec::new();
    let (config, loops, stop, adds_threads) = {
        let mut made = world.lock();
        made.torn = made.random(2) == 0;
        let peers: Vec<_> = (0..1 + made.random(5)).map(|wire| script(&mut made, wire)).collect();
        if made.random(4) == 0 {
            made.accept_failures = vec![std::io::ErrorKind::OutOfMemory, std::io::ErrorKind::ConnectionAborted];
        }
        let config = Config {
            body_buffer: 1 << 20,
            max_connections: [0, 0, 2][made.random(3)],
            threads: 1 + made.random(4),
            max_parked: [1, 500][made.random(2)],
            max_queue: [0, 0, 1, 100][made.random(4)],
            graceful_timeout: Duration::from_millis([0, 2_000, 1_000_000][made.random(3)]),
            ..Config::default()
        };
        let stop = (made.random(2) == 0).then(|| Stop {
            at: made.random(500) as u64,
            graceful: made.random(3) > 0,
            then_aborts: (made.random(4) == 0).then(|| made.random(5_000) as u64),
        });
        for (window, acts, mut wanted) in peers {
            // Who ends its sending direction while its request waits for a thread is taken to have gone.
            let may_seem_gone = config.max_queue > 0 && acts.iter().any(|act| matches!(act, Act::Finish));
            made.add(window, acts);
            wanted.may_be_cut = stop.is_some() || config.max_queue == 1 || may_seem_gone || config.max_parked == 1;
            asked.push(wanted);
        }
        let loops = 1 + made.random(2).min(config.threads - 1);
        let adds_threads = made.random(4) > 0;
        (config, loops, stop, adds_threads)
    };
    if std::env::var_os("SEED").is_some() {
        let Config { threads, max_connections, max_queue, graceful_timeout, .. } = &config;
        println!(
            "{threads} threads, {loops} loops, {max_connections} connections, queue {max_queue}, {graceful_timeout:?}, {stop:?}"
        );
    }
    let (net, end) = SimNet::new(world.clone());
    let counters = Arc::<Counters>::default();
    {
        let mut made = world.lock();
        let limit = if config.max_connections == 0 { usize::MAX } else { config.max_connections };
        made.books = Some((counters.clone(), if made.accept_failures.is_empty() { limit } else { 0 }));
    }
    let threads = config.threads;
    let mut nets = vec![net];
    for _ in 1..loops {
        nets.push(nets[0].another());
    }
    let books = Books { counters, log: None };
    world.lock().threads.permits = threads;
    let app = Anything::new(world.clone(), Pace::Sleeps);
    let server = Arc::new(Server::with_books(nets, app, config, books));
    end.set(server.stopper()).ok();
    server.app().server.set(Arc::downgrade(&server)).ok();
    let spares = Arc::<shuttle::sync::Mutex<Vec<thread::JoinHandle<()>>>>::default();
    if adds_threads {
        let (its_server, its_spares) = (Arc::downgrade(&server), spares.clone());
        let spawn = move || {
            let server = its_server.upgrade().unwrap();
            its_spares.lock().unwrap().push(thread::spawn(move || server.work().unwrap()));
        };
        server.app().spawn.set(Box::new(spawn)).ok();
    }
    let mut running: Vec<_> = (0..threads)
        .map(|_| {
            let server = server.clone();
            thread::spawn(move || server.work().unwrap())
        })
        .collect();
    let (watched, its_world) = (server.clone(), world.clone());
    let keeper = thread::spawn(move || watch(&watched, &its_world));
    if let Some(stop) = stop {
        let (stopped, its_world) = (server.clone(), world.clone());
        running.push(thread::spawn(move || end_by(stop, &stopped, &its_world)));
    }
    running.into_iter().for_each(|thread| thread.join().unwrap());
    loop {
        let Some(spare) = spares.lock().unwrap().pop() else { break };
        spare.join().unwrap();
    }
    server.end_watch();
    keeper.join().unwrap();

    assert_eq!(server.app().streams.load(Ordering::Relaxed), 0, "every stream ends once");
    let count = |name| server.counters().all().find(|(counter, _)| *counter == name).unwrap().1;
    assert_eq!(count("open"), 0);
    assert_eq!(server.at_work(), 0);
    let given_up = server.app().given_up.load(Ordering::Relaxed);
    assert!(given_up == 0 || stop.is_some(), "nobody is given up unless the server ends");
    let world = world.lock();
    assert!(world.ended || stop.is_some(), "the server ended because nothing was left to happen");
    for (wire, asked) in world.wires.iter().zip(&asked) {
        assert!(wire.accepted || stop.is_some(), "every connection is accepted");
        assert!(!wire.accepted || wire.server_closed, "and closed in the end");
        // An idle connection gives way to another, whatever its peer would have asked for next.
        let mut asked = asked.clone();
        asked.may_be_cut |= count("gave_way") > 0;
        check(&wire.taken, &asked);
    }
}

/// Looks as the watch does, which sleeps where it thinks that it is not needed, until the server has ended.
fn watch(server: &Simulated, world: &Shared) {
    let start = Instant::now();
    server.keep_watch(|| {
        let mut yields = 0;
        while world.lock().threads.all_rest() && !server.has_ended() {
            // One of them has been called, or has come upon the lead by itself: the watch must not be needed for that.
            yields += 1;
            assert!(yields < MAX_YIELDS, "all threads rest, and nobody leads");
            yield_now();
        }
        let mut world = world.lock();
        world.looks += 1;
        start + Duration::from_millis(world.now)
    });
}

fn end_by(stop: Stop, server: &Simulated, world: &Shared) {
    let wait_until = |moment: Millis| {
        while world.lock().now < moment && !server.has_ended() {
            yield_now();
        }
    };
    wait_until(stop.at);
    server.stopper().stop(stop.graceful);
    if let Some(later) = stop.then_aborts {
        wait_until(stop.at + later);
        server.stopper().stop(false);
    }
}

fn play(seed: u64, scheduler: impl Scheduler + 'static) {
    let mut config = shuttle::Config::new();
    config.stack_size = STACK_BYTES;
    config.max_steps = MaxSteps::FailAfter(STEPS);
    config.failure_persistence = FailurePersistence::File(Some(env!("CARGO_TARGET_TMPDIR").into()));
    config.silence_warnings = true; // that it knows of sequentially consistent order only
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    Runner::new(scheduler, config).run(move || run(seed));
}

fn try_schedules(seed: u64) {
    play(seed, RandomScheduler::new_from_seed(seed, AT_RANDOM));
    play(seed, PctScheduler::new_from_seed(seed, CHANGES, WITH_FEW_CHANGES));
}

#[test]
fn every_request_is_answered_once_and_in_order_whichever_thread_does_what() {
    if let Ok(seed) = std::env::var("SEED") {
        let seed = seed.parse().unwrap();
        return match std::env::var("SCHEDULE") {
            Ok(path) => play(seed, ReplayScheduler::new_from_file(path).unwrap()),
            Err(_) => try_schedules(seed),
        };
    }
    for seed in 0..SEEDS {
        if let Err(failure) = std::panic::catch_unwind(|| try_schedules(seed)) {
            eprintln!("this was seed {seed}: SEED={seed} runs it again");
            std::panic::resume_unwind(failure);
        }
    }
}
