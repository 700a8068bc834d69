//! Days of a household of agents with twelve free keys, against the ledger and against the original program's way:
//! a random order, and no memory. Deterministic: no clock, no socket, seeded dice.
//!
//! `cargo test --test simulation -- --nocapture` prints the table of docs/routing.md.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may end itself")]

mod providers;
mod world;

use fastrand::Rng;
use providers::{Estimates, Pool, Request, Style, crowd, demand};
use world::{Algorithm, Tally, World};

const DAYS: u64 = 3;
const SEED: u64 = 20_261_123;
const RANDOM: Algorithm = Algorithm::Ledger { least_used: false };

fn days(algorithm: Algorithm, days: u64, seed: u64, estimates: Estimates) -> World {
    let pool = Pool::twelve_keys(days, &mut Rng::with_seed(seed ^ 1));
    let requests = demand(days, estimates, &mut Rng::with_seed(seed ^ 2));
    World::new(pool, requests, algorithm, seed)
}

fn row(name: &str, tally: &Tally) -> String {
    let mut delays = tally.delays.clone();
    delays.sort_unstable();
    let part = |hundredths: usize| delays[(delays.len() - 1) * hundredths / 100] as f64 / 1000.0;
    let mean = delays.iter().sum::<u64>() as f64 / delays.len() as f64 / 1000.0;
    format!(
        "| {name} | {} | {} | {} | {} | {} | {mean:.2} s | {:.1} s | {:.1} s |",
        tally.served,
        tally.refused,
        tally.calls,
        tally.limited(),
        tally.broken,
        part(95),
        part(99),
    )
}

fn table(title: &str, rows: &[(&str, &Tally)]) {
    println!(
        "| {title} | answered | refused | calls | refused by a limit | broken | mean delay | 95 % | 99 % |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|");
    rows.iter().for_each(|(name, tally)| println!("{}", row(name, tally)));
}

/// Refusals by backends whose limits are all in the config: for requests, for tokens, for size.
fn limited_though_configured(tally: &Tally) -> [u64; 3] {
    let pool = Pool::twelve_keys(1, &mut Rng::with_seed(0));
    let its = pool.backends.iter().zip(&tally.limited).filter(|(backend, _)| backend.is_configured());
    its.fold([0; 3], |sum, (_, more)| std::array::from_fn(|why| sum[why] + more[why]))
}

#[test]
fn days_with_twelve_keys() {
    let run = |algorithm| days(algorithm, DAYS, SEED, Estimates::Real).run();
    let [ours, least, original] =
        [RANDOM, Algorithm::Ledger { least_used: true }, Algorithm::Original].map(run);
    table(
        &format!("{DAYS} days, twelve keys"),
        &[("the original's way", &original), ("ledger, `random`", &ours), ("ledger, `least_used`", &least)],
    );
    for tally in [&ours, &least] {
        println!(
            "{} waited, {} in vain {:?}",
            tally.waited,
            tally.refused_in_vain,
            limited_though_configured(tally)
        );
    }
    let pool = Pool::twelve_keys(DAYS, &mut Rng::with_seed(SEED ^ 1));
    for (backend, (limited, (theirs, served))) in
        pool.backends.iter().zip(ours.limited.iter().zip(original.limited.iter().zip(&ours.served_by)))
    {
        println!("{:20} {limited:?} {theirs:?} served {served}", backend.name);
    }
}

#[test]
fn a_crowd_before_three_keys() {
    let run = |algorithm| {
        let requests = crowd(&mut Rng::with_seed(SEED));
        World::new(Pool::three_keys(), requests, algorithm, SEED).run()
    };
    let [ours, original] = [RANDOM, Algorithm::Original].map(run);
    table("half an hour, three keys", &[("the original's way", &original), ("ledger, `random`", &ours)]);
    println!("{} waited, {} in vain {:?}", ours.waited, ours.refused_in_vain, ours.limited);
}

/// Where no request is longer than it was taken for, no limit of the config is ever met.
#[test]
fn configured_limits_are_never_met() {
    let tally = days(RANDOM, 1, SEED + 1, Estimates::Safe).run();
    let [requests, tokens, size] = limited_though_configured(&tally);
    assert_eq!((requests, tokens), (0, 0));
    println!("{size}");
}

#[test]
fn restarts_change_nothing() {
    for seed in 0..2 {
        let run = || days(RANDOM, 1, seed, Estimates::Real);
        let (straight, restarted) = (run().run(), run().with_restarts().run());
        assert!(restarted.restarts > 30, "only {}", restarted.restarts);
        assert_eq!(straight.story, restarted.story, "after {} restarts", restarted.restarts);
    }
}

#[test]
fn inside_a_priority_all_have_the_same_chance() {
    let mut pool = Pool::empty();
    for key in 0..5 {
        pool.add("nvidia", key, "same", 1, Style::Plain);
    }
    pool.add("nvidia", 9, "later", 2, Style::Plain);
    let rng = &mut Rng::with_seed(SEED);
    let requests =
        (0..5000).map(|n| Request { at: n * 997, estimate: rng.u64(1..5000), input: 1, output: 1 });
    let tally = World::new(pool, requests.collect(), RANDOM, SEED).run();
    // 1000 expected; six standard deviations are 170.
    assert!(tally.served_by[..5].iter().all(|served| (830..1170).contains(served)), "{:?}", tally.served_by);
    assert_eq!((tally.served_by[5], tally.calls), (0, 5000));
}
