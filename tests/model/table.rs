//! Walks the whole table of states through the functions, and every refusal: what is refused changes nothing.

use std::collections::BTreeMap;

use waooaw_orchestration::domain::id::{QueueName, ReplicaId};
use waooaw_orchestration::domain::model::{Appetite, NewTask, Op, Outcome, Owner, Reply, Settlement, Word};
use waooaw_orchestration::domain::priority::Priority;
use waooaw_orchestration::domain::state::{TaskMove, TaskState};
use waooaw_orchestration::domain::trigger::Start;

use crate::runtime;
use crate::server::Server;
use crate::steps::{name, replica, task_id};
use crate::world::World;

const TASK: u8 = 1;

#[test]
fn every_move_of_the_table_is_made_or_refused_by_the_functions() {
    let runtime = runtime();
    let server = runtime.block_on(Server::start());

    for state in TaskState::ALL {
        for step in TaskMove::ALL {
            let prefix = format!("{state}{step:?}");
            let result = runtime.block_on(walk(&server, &prefix, state, step));
            result.unwrap_or_else(|outcry| panic!("{state} {step:?}: {outcry}"));
        }
    }
}

async fn walk(server: &Server, prefix: &str, state: TaskState, step: TaskMove) -> Result<(), String> {
    let mut world = World::new(server, prefix).await;
    bring_to(&mut world, state, u32::from(step == TaskMove::Retry)).await?;
    let task = world.model.tasks()[&task_id(TASK)].clone();
    let owner = task.owner.as_ref().and_then(Owner::replica).unwrap_or(replica(0));
    let settle_as = |outcome| settle(task.attempt, outcome);
    let op = match step {
        TaskMove::Claim => {
            // Nothing offers a task that does not wait, but for an entry that somebody forged.
            if state != TaskState::Pending {
                world.apply(replica(9), &stray()).await?;
            }
            claim()
        }
        TaskMove::Succeed => settle_as(Outcome::Completed),
        TaskMove::Retry => settle_as(Outcome::Failed { delay_ms: 0 }),
        TaskMove::Release => settle_as(Outcome::Released),
        TaskMove::Fail => settle_as(Outcome::Rejected),
        TaskMove::Expire => settle_as(Outcome::Timeout { delay_ms: 0 }),
        TaskMove::Cancel => cancel(),
        TaskMove::Requeue => Op::Requeue {
            letters: vec![(task_id(TASK), task.attempt)],
            max_retries: None,
        },
    };
    let before = world.dump().await;

    world.apply(owner, &op).await?;

    let after = world.model.tasks()[&task_id(TASK)].state;
    assert_eq!(after, state.after(step).unwrap_or(state), "{state} {step:?}");
    if state.after(step).is_none() {
        let changed = changes(&before, &world.dump().await);
        // The forged entry is dropped, and that nothing was overdue is remembered.
        let may_change = |key: &&String| step == TaskMove::Claim && (key.contains(":queue:") || key.ends_with(":meta"));
        let changed: Vec<_> = changed.iter().filter(|key| !may_change(key)).collect();
        assert!(
            changed.is_empty(),
            "{state} {step:?} was refused and changed {changed:?}"
        );
    }
    Ok(())
}

#[test]
fn a_task_lives_on_as_often_as_it_is_requeued() {
    let runtime = runtime();
    let server = runtime.block_on(Server::start());
    let result = runtime.block_on(async {
        let mut world = World::new(&server, "lives").await;
        bring_to(&mut world, TaskState::Failed, 1).await?;
        let requeue = |attempt, max_retries| Op::Requeue {
            letters: vec![(task_id(TASK), attempt)],
            max_retries,
        };
        let lives = |word, life| Reply::Lives(vec![(word, life)]);

        // Two attempts a life, then three; by a replica as by anybody else.
        for (life, attempt, by, attempts) in [(2, 2, 9, 2), (3, 4, 0, 3), (4, 7, 9, 3)] {
            let op = requeue(attempt, (life == 3).then_some(2));
            assert_eq!(world.apply(replica(by), &op).await?, lives(Word::Ok, Some(life)));
            let again = world.apply(replica(by), &op).await?;
            assert_eq!(again, lives(Word::Duplicate, Some(life)));
            for attempt in attempt + 1..=attempt + attempts {
                world.apply(replica(0), &claim()).await?;
                world
                    .apply(replica(0), &settle(attempt, Outcome::Failed { delay_ms: 0 }))
                    .await?;
            }
            let first = world.apply(replica(9), &requeue(2, None)).await?;
            assert_eq!(first, lives(Word::Duplicate, Some(2)));
        }
        let task = &world.model.tasks()[&task_id(TASK)];
        assert_eq!((task.state, task.attempt, task.life), (TaskState::Failed, 10, 4));
        assert_eq!(world.model.counters()["failed"], 4);

        // Whoever missed the end of a life is told that the task is not theirs any more.
        world.apply(replica(9), &requeue(10, None)).await?;
        let late = world.apply(replica(0), &settle(10, Outcome::Completed)).await?;
        assert_eq!(late, Reply::Words(vec![Word::Stale], Vec::new()));
        Ok::<_, String>(())
    });
    result.unwrap();
}

#[test]
fn what_is_refused_changes_nothing() {
    let runtime = runtime();
    let server = runtime.block_on(Server::start());
    let result = runtime.block_on(async {
        let mut world = World::new(&server, "refusals").await;
        bring_to(&mut world, TaskState::Running, 3).await?;
        let unknown = NewTask {
            id: task_id(2),
            name: name(2),
            ..task(0)
        };
        let new = NewTask {
            id: task_id(2),
            ..task(0)
        };
        let mut settle_nobody = settle(1, Outcome::Completed);
        if let Op::Settle { settlements, .. } = &mut settle_nobody {
            settlements[0].task = task_id(3);
        }
        let limits = Op::SetLimits {
            max_size: Some(1),
            max_running: None,
        };
        world.apply(replica(0), &limits).await?;
        let takeover = Op::Takeover {
            victim: replica(0),
            seen: "17".to_owned(),
            limit: 10,
        };
        let beat = Op::Beat {
            number: 1,
            workers: 1,
            looks: true,
            renew_names: true,
            held: vec![(task_id(TASK), 1)],
        };
        let words = |word| Reply::Words(vec![word], Vec::new());
        let letters = vec![(task_id(TASK), 1), (task_id(3), 1)];
        let requeue = Op::Requeue {
            letters: letters.clone(),
            max_retries: Some(7),
        };
        let refusals: [(ReplicaId, Op, Reply); 13] = [
            (replica(1), settle(1, Outcome::Completed), words(Word::Stale)),
            (replica(1), settle(1, Outcome::Released), words(Word::Stale)),
            (replica(0), settle(0, Outcome::Completed), words(Word::Stale)),
            (replica(0), settle(2, Outcome::Rejected), words(Word::Stale)),
            (replica(0), settle_nobody, words(Word::Missing)),
            (replica(0), create(true, task(0)), words(Word::Duplicate)),
            (replica(0), create(true, unknown), words(Word::Unknown)),
            (replica(0), create(true, new), words(Word::Full)),
            (replica(1), takeover, Reply::Alive),
            (replica(0), Op::Leave { announce: true }, Reply::Busy),
            (replica(5), beat, Reply::Stranger),
            (replica(9), requeue, Reply::Lives(vec![(Word::Missing, None); 2])),
            (
                replica(9),
                Op::Discard { letters },
                Reply::Words(vec![Word::Missing; 2], Vec::new()),
            ),
        ];
        let before = world.dump().await;
        for (by, op, expected) in refusals {
            assert_eq!(world.apply(by, &op).await?, expected, "{op:?}");

            let changed = changes(&before, &world.dump().await);
            assert!(changed.is_empty(), "{op:?} was refused and changed {changed:?}");
        }
        Ok::<_, String>(())
    });
    result.unwrap();
}

/// A replica, and one task in a state. Every attempt on the way was replica 0's.
async fn bring_to(world: &mut World, state: TaskState, max_retries: u32) -> Result<(), String> {
    let join = Op::Join {
        max_size: None,
        max_running: None,
        workers: Some(1),
        announce: true,
        names: vec![name(0)],
        limits: BTreeMap::new(),
        agents: BTreeMap::new(),
    };
    world.apply(replica(0), &join).await?;
    world.apply(replica(0), &create(true, task(max_retries))).await?;
    if state == TaskState::Pending {
        return Ok(());
    }
    loop {
        world.apply(replica(0), &claim()).await?;
        let attempt = world.model.tasks()[&task_id(TASK)].attempt;
        let op = match state {
            TaskState::Pending | TaskState::Running => return Ok(()),
            TaskState::Completed => settle(attempt, Outcome::Completed),
            TaskState::Failed => settle(attempt, Outcome::Failed { delay_ms: 0 }),
            TaskState::Timeout => settle(attempt, Outcome::Timeout { delay_ms: 0 }),
            TaskState::Cancelled => cancel(),
        };
        world.apply(replica(0), &op).await?;
        if world.model.tasks()[&task_id(TASK)].state == state {
            return Ok(());
        }
    }
}

/// The keys that differ.
fn changes(before: &[(String, Vec<u8>)], after: &[(String, Vec<u8>)]) -> Vec<String> {
    let missing = |these: &[(String, Vec<u8>)], those: &[(String, Vec<u8>)]| -> Vec<String> {
        let gone = these.iter().filter(|entry| !those.contains(entry));
        gone.map(|(key, _)| key.clone()).collect()
    };
    [missing(before, after), missing(after, before)].concat()
}

fn task(max_retries: u32) -> NewTask {
    NewTask {
        id: task_id(TASK),
        name: name(0),
        queue: QueueName::default(),
        priority: Priority::Normal,
        max_retries,
        start: Start::Now,
        event_id: "e-1".to_owned(),
        agent: None,
        timeout_ms: None,
    }
}

fn create(check_names: bool, task: NewTask) -> Op {
    Op::Create {
        check_names,
        tasks: vec![task],
        appetite: Appetite::default(),
    }
}

fn claim() -> Op {
    Op::Claim(Appetite {
        slots: vec![0],
        runs_any: false,
        max_wait_ms: 60_000,
        only: None,
    })
}

fn settle(attempt: u32, outcome: Outcome) -> Op {
    Op::Settle {
        settlements: vec![Settlement {
            task: task_id(TASK),
            attempt,
            outcome,
        }],
        appetite: Appetite::default(),
    }
}

fn cancel() -> Op {
    Op::Cancel {
        cause: None,
        tasks: vec![task_id(TASK)],
    }
}

fn stray() -> Op {
    Op::Stray {
        queue: QueueName::default(),
        priority: Priority::Normal,
        task: task_id(TASK),
    }
}
