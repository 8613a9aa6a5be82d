//! Breaks things by the plan, mends them, and counts what really happened.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::chance::Chance;
use super::plan::{Fault, Step};
use super::rig::Rig;
use super::support::proxy::{Fate, Proxy, Trap};

/// Longer than a takeover takes: 8 s of silence, looked at every second.
const STOP: Duration = Duration::from_millis(10_500);
/// How far the clock of Redis jumps.
const JUMP_SECONDS: i64 = 600;

/// How often each fault really happened.
pub(crate) type Fired = BTreeMap<Fault, u32>;

/// Goes through the plan.
pub(crate) async fn run(rig: &mut Rig, seed: u64, steps: &[Step], began: Instant) -> Fired {
    let mut chance = Chance::new(seed, 3);
    let mut fired = Fired::new();
    for step in steps {
        while began.elapsed() < step.at {
            rig.mend_what_is_due();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        rig.mend_what_is_due();
        let happened = strike(rig, &mut chance, step.fault).await;
        rig.journal.say(&format!(
            "{}: {}",
            step.fault,
            if happened { "done" } else { "in vain" }
        ));
        *fired.entry(step.fault).or_default() += u32::from(happened);
    }
    heal(rig).await;
    fired
}

/// Breaks one thing, and mends it where it lasts only for a moment; answers whether it really broke.
async fn strike(rig: &mut Rig, chance: &mut Chance, fault: Fault) -> bool {
    let place = usize::try_from(chance.within(0..rig.places.len() as u64)).unwrap_or_default();
    let moment = Duration::from_millis(chance.within(200..1200));
    match fault {
        Fault::KillReplica => {
            // One that is there, so that somebody dies.
            let place = a_running_place(rig, place);
            rig.kill_replica(place, moment)
        }
        Fault::KillAll => {
            let killed = (0..rig.places.len()).filter(|place| rig.kill_replica(*place, moment));
            killed.count() > 0
        }
        Fault::StopReplica => {
            let place = a_running_place(rig, place);
            if rig.places[place].stopped_until.is_some() {
                return false;
            }
            rig.harm(place);
            let is_there = signal(rig, place, "STOP");
            rig.places[place].stopped_until = is_there.then(|| Instant::now() + STOP);
            is_there
        }
        Fault::RollReplica => {
            let place = a_running_place(rig, place);
            rig.roll_replica(place)
        }
        Fault::KillRedis => {
            rig.kill_redis().await;
            tokio::time::sleep(moment * 2).await;
            rig.redis.start_again().await;
            true
        }
        Fault::FreezeRedis => {
            let since = Instant::now();
            rig.redis.signal("STOP");
            tokio::time::sleep(moment * 4).await;
            rig.redis.signal("CONT");
            rig.stood_still.push((since, Instant::now()));
            true
        }
        Fault::LosePower => {
            let lost = rig.lose_power(chance.within(100..1001)).await;
            tokio::time::sleep(moment).await;
            rig.redis.start_again().await;
            rig.journal
                .say(&format!("{lost} bytes of the append-only file are lost"));
            lost > 0
        }
        Fault::SleepRedis => {
            let seconds = format!("{:.1}", moment.as_secs_f64() * 2.0);
            ask::<String>(rig, &["DEBUG", "SLEEP", &seconds]).await.is_some()
        }
        Fault::BusyRedis => busy_redis(rig).await,
        Fault::FillMemory => {
            let before = errors(rig, "OOM").await;
            ask::<String>(rig, &["CONFIG", "SET", "maxmemory", "1000000"]).await;
            tokio::time::sleep(moment * 2).await;
            ask::<String>(rig, &["CONFIG", "SET", "maxmemory", "0"]).await;
            errors(rig, "OOM").await > before
        }
        Fault::FlushFunctions => {
            let known = ask::<redis::Value>(rig, &["FUNCTION", "LIST"]).await;
            let is_loaded = matches!(known, Some(redis::Value::Array(libraries)) if !libraries.is_empty());
            ask::<String>(rig, &["FUNCTION", "FLUSH"]).await.is_some() && is_loaded
        }
        Fault::KillClients => {
            let killed = ask::<u64>(rig, &["CLIENT", "KILL", "TYPE", "normal"]).await;
            killed.is_some_and(|killed| killed > 0)
        }
        Fault::CutConnections => disturb(rig, place, moment, Proxy::cut).await,
        Fault::RefuseReplica => disturb(rig, place, moment, Proxy::refuse).await,
        Fault::SilenceReplica => disturb(rig, place, moment, Proxy::silence).await,
        Fault::SlowNetwork => disturb(rig, place, moment, |proxy| proxy.slow_down(moment / 5)).await,
        Fault::LoseReplies => lose_replies(rig, chance, place).await,
        Fault::JumpClock => jump_clock(rig, moment * 2).await,
    }
}

/// The place itself, or the next one with a replica that runs.
fn a_running_place(rig: &Rig, place: usize) -> usize {
    let runs = |place: &usize| rig.places[*place].process.is_some() && rig.places[*place].stopped_until.is_none();
    let count = rig.places.len();
    (0..count)
        .map(|step| (place + step) % count)
        .find(runs)
        .unwrap_or(place)
}

fn signal(rig: &Rig, place: usize, name: &str) -> bool {
    let process = rig.places[place].process.as_ref();
    process.inspect(|process| process.signal(name)).is_some()
}

/// Troubles the network of one replica for a moment.
async fn disturb(rig: &mut Rig, place: usize, moment: Duration, trouble: impl FnOnce(&Proxy)) -> bool {
    // Out of reach for longer than a takeover takes, it is given up rightly; several troubles in a row add up.
    rig.harm(place);
    let open = rig.places[place].proxy.connections();
    trouble(&rig.places[place].proxy);
    tokio::time::sleep(moment).await;
    rig.places[place].proxy.heal();
    open > 0
}

async fn lose_replies(rig: &mut Rig, chance: &mut Chance, place: usize) -> bool {
    rig.harm(place);
    let calls = [
        "create",
        "claim",
        "settle",
        "cancel",
        "beat",
        "acknowledge",
        "promote",
        "reject",
        "XREADGROUP",
        "XREAD",
        "XPENDING",
    ];
    let mut traps = Vec::new();
    for _ in 0..4 {
        let times = usize::try_from(chance.within(1..4)).unwrap_or(1);
        let fate = if chance.once_in(4) {
            Fate::SilenceReply
        } else {
            Fate::LoseReply
        };
        let trap = Trap::on(chance.pick::<&str>(&calls), fate).times(times);
        traps.push(rig.places[place].proxy.set(trap));
    }
    // The agent has a way of its own.
    let call = *chance.pick(&["XADD", "XREADGROUP"]);
    let trap = Trap::on(call, Fate::LoseReply).times(2);
    traps.push(rig.way.set(trap));
    let began = Instant::now();
    // Long enough for whatever every replica calls all the time.
    while began.elapsed() < Duration::from_millis(2500) && traps.iter().any(|trap| trap.sprung() == 0) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    rig.places[place].proxy.heal();
    rig.way.heal();
    let sprung: usize = traps.iter().map(|trap| trap.sprung()).sum();
    rig.journal
        .say(&format!("{sprung} answers to replica {place} are lost"));
    sprung > 0
}

/// A script that keeps Redis for about a second, while everybody else is told so.
async fn busy_redis(rig: &Rig) -> bool {
    ask::<String>(rig, &["CONFIG", "SET", "busy-reply-threshold", "50"]).await;
    let before = errors(rig, "BUSY").await;
    let began = Instant::now();
    let mut rounds = 1_000_000_u64;
    // Machines differ; a longer one follows until one was long enough.
    while began.elapsed() < Duration::from_millis(600) {
        let script = format!("local n = 0 for i = 1, {rounds} do n = n + i % 7 end return n");
        ask::<redis::Value>(rig, &["EVAL", &script, "0"]).await;
        rounds *= 4;
    }
    errors(rig, "BUSY").await > before
}

async fn jump_clock(rig: &mut Rig, moment: Duration) -> bool {
    let Some(clock) = &rig.clock else { return false };
    let time = async || ask::<(i64, i64)>(rig, &["TIME"]).await.unwrap_or_default().0;
    let before = time().await;
    clock.shift(JUMP_SECONDS);
    let after = time().await;
    tokio::time::sleep(moment).await;
    clock.shift(0);
    (after - before - JUMP_SECONDS).abs() < 5
}

/// Asks Redis something; tries again for a while, since other faults are at work too.
async fn ask<T: redis::FromRedisValue>(rig: &Rig, words: &[&str]) -> Option<T> {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    for _ in 0..40 {
        match rig.redis.try_send::<T>(&command).await {
            Ok(answer) => return Some(answer),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    None
}

/// How often Redis answered with an error of this kind.
async fn errors(rig: &Rig, code: &str) -> u64 {
    let statistics = ask::<String>(rig, &["INFO", "errorstats"]).await.unwrap_or_default();
    let line = statistics
        .lines()
        .find_map(|line| line.strip_prefix(&format!("errorstat_{code}:count=")));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or_default()
}

/// Nothing is broken any more, and every replica is there.
async fn heal(rig: &mut Rig) {
    for place in &rig.places {
        place.proxy.heal();
    }
    rig.working.agent.calm_down();
    ask::<String>(rig, &["CONFIG", "SET", "maxmemory", "0"]).await;
    while rig.is_waiting() {
        rig.mend_what_is_due();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for number in 0..rig.places.len() {
        rig.start_replica(number);
    }
    rig.journal.say("healed");
}
