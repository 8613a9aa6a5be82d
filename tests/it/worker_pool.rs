//! The library's pool of workers, as the mission document has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use waooaw_orchestration::{Error, TaskError, WorkerPool, WorkerState};

async fn add(x: i64, y: i64) -> Result<i64, TaskError> {
    Ok(x + y)
}

fn multiply(x: i64, y: i64) -> Result<i64, TaskError> {
    x.checked_mul(y).ok_or_else(|| TaskError::new("too large"))
}

async fn fail(message: &'static str) -> Result<(), TaskError> {
    tokio::task::yield_now().await;
    Err(TaskError::new(message))
}

async fn blow_up() -> Result<(), TaskError> {
    tokio::task::yield_now().await;
    panic!("out of cheese");
}

fn started(min: u16, max: u16) -> WorkerPool {
    let pool = WorkerPool::new(min, max).unwrap();
    pool.start();
    pool
}

#[tokio::test]
async fn async_and_blocking_functions_give_their_results() {
    let pool = started(2, 10);

    assert_eq!(pool.execute_task(add, (5, 3)).await.unwrap(), 8);
    assert_eq!(pool.execute_blocking(multiply, (6, 7)).await.unwrap(), 42);
    assert_eq!(pool.execute_task(async || Ok("none"), ()).await.unwrap(), "none");
    let greet = |name: String| async move { Ok(format!("hello {name}")) };
    assert_eq!(
        pool.execute_task(greet, ("Ada".to_owned(),)).await.unwrap(),
        "hello Ada"
    );

    let metrics = pool.get_metrics();
    assert_eq!(
        (
            metrics.tasks_completed,
            metrics.tasks_failed,
            metrics.throughput_per_minute
        ),
        (4, 0, 4)
    );
    assert!(metrics.average_duration_seconds.is_some());
}

#[tokio::test]
async fn a_pool_needs_a_minimum_of_one_and_no_more_than_its_maximum() {
    for (min, max) in [(0, 5), (5, 3), (0, 0)] {
        let refused = WorkerPool::new(min, max).map(drop).unwrap_err();
        assert!(
            refused.to_string().contains("must be from 1 to max_workers"),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn it_is_there_from_start_to_stop() {
    let pool = WorkerPool::new(3, 5).unwrap();
    let is_unavailable = |error: Error| matches!(error, Error::NoWorkersAvailable);
    assert_eq!((pool.workers().len(), pool.get_metrics().total_workers), (0, 0));
    assert!(is_unavailable(pool.execute_task(add, (1, 1)).await.unwrap_err()));
    assert!(is_unavailable(pool.scale_up(1).unwrap_err()));
    pool.stop().await;

    pool.start();
    assert_eq!(pool.scale_up(1).unwrap(), 1);
    pool.start();
    assert_eq!((pool.workers().len(), pool.get_metrics().idle_workers), (4, 4));
    pool.stop().await;

    assert_eq!((pool.workers().len(), pool.get_metrics().total_workers), (0, 0));
    assert_eq!(pool.get_worker_metrics("worker-1").unwrap().state, WorkerState::Stopped);
    assert!(is_unavailable(pool.execute_task(add, (1, 1)).await.unwrap_err()));
    pool.start();
    assert_eq!(pool.execute_task(add, (1, 1)).await.unwrap(), 2);
    assert_eq!(pool.get_metrics().total_workers, 3);
}

#[tokio::test]
async fn scaling_keeps_within_the_bounds_and_adds_all_or_none() {
    let pool = started(2, 5);

    assert_eq!((pool.scale_up(2).unwrap(), pool.get_metrics().total_workers), (2, 4));
    let full = pool.scale_up(2).unwrap_err();
    assert!(
        matches!(
            full,
            Error::WorkerPoolFull {
                workers: 4,
                max_workers: 5,
                asked: 2
            }
        ),
        "{full:?}"
    );
    assert!(full.to_string().contains("max capacity"));
    assert_eq!(pool.get_metrics().total_workers, 4);
    assert_eq!((pool.scale_down(9).unwrap(), pool.get_metrics().total_workers), (2, 2));
    assert_eq!(pool.scale_down(1).unwrap(), 0);
    assert_eq!(pool.get_worker_metrics("worker-4").unwrap().state, WorkerState::Stopped);
    let nobody = pool.get_worker_metrics("worker-9");
    assert!(matches!(nobody, Err(Error::WorkerNotFound(_))), "{nobody:?}");
}

#[tokio::test]
async fn a_panic_shows_as_an_error_and_the_worker_goes_on() {
    let pool = started(1, 1);

    let error = pool.execute_task(blow_up, ()).await.unwrap_err();
    assert!(error.to_string().contains("out of cheese"), "{error}");
    let worker = pool.get_worker_metrics("worker-1").unwrap();
    assert_eq!(
        (worker.state, worker.tasks_failed, pool.workers().len()),
        (WorkerState::Error, 1, 1)
    );
    let blown = pool
        .execute_blocking(|| -> Result<(), TaskError> { panic!("no cheese either") }, ())
        .await;
    assert!(
        matches!(&blown, Err(Error::TaskFailed(error)) if error.kind == "panic"),
        "{blown:?}"
    );

    assert_eq!(pool.execute_task(add, (5, 3)).await.unwrap(), 8);
    let worker = pool.get_worker_metrics("worker-1").unwrap();
    assert_eq!(
        (worker.state, worker.tasks_completed, worker.tasks_failed),
        (WorkerState::Idle, 1, 2)
    );
    assert!((worker.error_rate - 2.0 / 3.0).abs() < 1e-9);
}

#[tokio::test]
async fn good_tasks_finish_among_bad_ones() {
    let pool = started(2, 2);

    let (a, b, c, d) = tokio::join!(
        pool.execute_task(fail, ("no",)),
        pool.execute_task(add, (1, 2)),
        pool.execute_task(blow_up, ()),
        pool.execute_task(add, (3, 4)),
    );

    assert!(a.is_err() && c.is_err());
    assert_eq!((b.unwrap(), d.unwrap()), (3, 7));
    let metrics = pool.get_metrics();
    assert_eq!((metrics.tasks_completed, metrics.tasks_failed), (2, 2));
    assert_eq!(metrics.idle_workers + metrics.active_workers, 2);
}

#[tokio::test]
async fn a_task_waits_while_every_worker_is_busy() {
    let pool = started(2, 2);
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let go = Arc::new(Notify::new());
    let calls: Vec<_> = (0..6)
        .map(|_| {
            let (pool, running, most, go) = (pool.clone(), Arc::clone(&running), Arc::clone(&most), Arc::clone(&go));
            tokio::spawn(async move {
                let work = async move || {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    go.notified().await;
                    running.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                };
                pool.execute_task(work, ()).await
            })
        })
        .collect();
    while pool.get_metrics().active_workers < 2 {
        tokio::task::yield_now().await;
    }
    let metrics = pool.get_metrics();
    assert_eq!((metrics.active_workers, metrics.idle_workers), (2, 0));
    assert!((metrics.utilization_percentage - 100.0).abs() < 1e-9);
    assert!(pool.workers().iter().all(|worker| worker.state == WorkerState::Busy));

    for call in calls {
        go.notify_one();
        call.await.unwrap().unwrap();
    }
    assert_eq!(most.load(Ordering::SeqCst), 2);
    assert_eq!(pool.get_metrics().tasks_completed, 6);
}

#[tokio::test]
async fn more_workers_start_what_waits() {
    let pool = started(1, 3);
    let go = Arc::new(Notify::new());
    let call = |pool: &WorkerPool| {
        let (pool, go) = (pool.clone(), Arc::clone(&go));
        tokio::spawn(async move {
            pool.execute_task(
                async move || {
                    go.notified().await;
                    Ok(())
                },
                (),
            )
            .await
        })
    };
    let calls = [call(&pool), call(&pool), call(&pool)];
    while pool.get_metrics().active_workers < 1 {
        tokio::task::yield_now().await;
    }

    pool.scale_up(2).unwrap();

    while pool.get_metrics().active_workers < 3 {
        tokio::task::yield_now().await;
    }
    // No busy one goes.
    assert_eq!(pool.scale_down(2).unwrap(), 0);
    go.notify_waiters();
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_stop_waits_for_what_runs_and_turns_away_what_waits() {
    let pool = started(1, 1);
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let running = tokio::spawn({
        let (pool, begun, go) = (pool.clone(), Arc::clone(&begun), Arc::clone(&go));
        async move {
            let work = async move || {
                begun.notify_one();
                go.notified().await;
                Ok(7)
            };
            pool.execute_task(work, ()).await
        }
    });
    begun.notified().await;
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.execute_task(add, (1, 1)).await }
    });
    tokio::task::yield_now().await;

    let stopping = tokio::spawn({
        let pool = pool.clone();
        async move { pool.stop().await }
    });
    assert!(matches!(waiting.await.unwrap(), Err(Error::NoWorkersAvailable)));
    assert!(!stopping.is_finished());
    go.notify_one();

    assert_eq!(running.await.unwrap().unwrap(), 7);
    stopping.await.unwrap();
    assert_eq!(pool.get_metrics().tasks_completed, 1);
}

#[tokio::test]
async fn patience_with_a_stop_can_end() {
    let pool = started(1, 1);
    let begun = Arc::new(Notify::new());
    let running = tokio::spawn({
        let (pool, begun) = (pool.clone(), Arc::clone(&begun));
        async move {
            let work = async move || {
                begun.notify_one();
                std::future::pending::<Result<(), TaskError>>().await
            };
            pool.execute_task(work, ()).await
        }
    });
    begun.notified().await;

    pool.stop_within(Duration::from_millis(20)).await;

    assert!(matches!(running.await.unwrap(), Err(Error::NoWorkersAvailable)));
    assert_eq!(pool.get_metrics().total_workers, 0);
}

#[tokio::test]
async fn a_task_that_takes_too_long_is_ended() {
    let pool = WorkerPool::new(1, 1)
        .unwrap()
        .with_max_execution_time(Duration::from_millis(30));
    pool.start();

    let slow = async || {
        tokio::time::sleep(Duration::from_secs(60)).await;
        Ok(())
    };
    let error = pool.execute_task(slow, ()).await.unwrap_err();

    assert!(error.to_string().contains("exceeded max execution time"), "{error}");
    assert_eq!(pool.execute_task(add, (5, 3)).await.unwrap(), 8);
}

#[tokio::test]
async fn a_call_that_is_dropped_frees_its_worker() {
    let pool = started(1, 1);
    let stuck = pool.execute_task(async || std::future::pending::<Result<(), TaskError>>().await, ());
    assert!(tokio::time::timeout(Duration::from_millis(20), stuck).await.is_err());

    assert_eq!(pool.execute_task(add, (5, 3)).await.unwrap(), 8);
    assert_eq!(pool.get_metrics().tasks_failed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_short_tasks_on_ten_workers_take_less_than_a_second() {
    let pool = started(10, 10);
    let began = Instant::now();

    let calls: Vec<_> = (0..100)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let nap = async || {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    Ok(())
                };
                pool.execute_task(nap, ()).await
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }

    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(
        pool.workers().iter().all(|worker| worker.tasks_completed > 0),
        "{:?}",
        pool.workers()
    );
}
