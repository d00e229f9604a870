//! The writer commits in groups, and knows nothing of what it writes: here it writes notes and strokes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use coupon_dispatcher::writer::{Measures, Work, WriteError, Writer, WriterWorker};
use outbox_relay::Shard;
use prometheus_client::metrics::histogram::Histogram;
use sqlx::PgConnection;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::support::{SOON, World, wait_for, wait_until};

/// Which session wrote how many items, in a lane.
type Batch = (&'static str, i32, usize);

/// Numbers for a table of this name; a negative one breaks its rule. Each batch is told.
struct Notes {
    table: &'static str,
    told: mpsc::Sender<Batch>,
}

struct Note {
    number: i32,
    asked_at: Instant,
    reply: oneshot::Sender<Result<i32, WriteError>>,
}

impl Work for Notes {
    type Item = Note;
    type Answer = i32;

    fn asked_at(note: &Note) -> Instant {
        note.asked_at
    }

    fn take_together(batch: &mut Vec<Note>) -> Vec<Note> {
        std::mem::take(batch)
    }

    async fn write(
        &mut self,
        connection: &mut PgConnection,
        _: Shard,
        notes: &[Note],
    ) -> Result<Vec<i32>, sqlx::Error> {
        let statement = format!("INSERT INTO {} SELECT unnest($1::int[]) RETURNING number", self.table);
        let numbers: Vec<i32> = notes.iter().map(|note| note.number).collect();
        let session = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *connection).await?;
        let written = sqlx::query_scalar(&statement).bind(numbers).fetch_all(connection).await?;
        self.told.send((self.table, session, notes.len())).await.unwrap();
        Ok(written)
    }

    fn settle(&mut self, notes: Vec<Note>, result: Result<Vec<i32>, WriteError>) {
        for (index, note) in notes.into_iter().enumerate() {
            let answer = result.as_ref().map(|written| written[index]).map_err(|error| *error);
            note.reply.send(answer).ok();
        }
    }
}

fn measures() -> Measures {
    Measures { batch: Histogram::new([1.0, 10.0]), commit: Histogram::new([0.1, 1.0]) }
}

/// A worker that is connected, with a lane for each of two tables, ten items a batch.
async fn two_lanes(world: &World) -> (JoinHandle<()>, [Writer<Note>; 2], mpsc::Receiver<Batch>) {
    let (told, batches) = mpsc::channel(1_000);
    for table in ["notes", "strokes"] {
        let create = format!("CREATE TABLE {table} (number integer CHECK (number >= 0))");
        sqlx::query(&create).execute(&world.pool).await.unwrap();
    }
    let database = world.servers.database_url().parse().unwrap();
    let mut worker = WriterWorker::new(Shard(0), 10, &database, Arc::default());
    let lanes = ["notes", "strokes"].map(|table| worker.add(Notes { table, told: told.clone() }, measures()));
    let running = tokio::spawn(worker.run());
    wait_until("it is connected", SOON, async || lanes[0].is_connected()).await;
    (running, lanes, batches)
}

fn ask(writer: &Writer<Note>, number: i32) -> oneshot::Receiver<Result<i32, WriteError>> {
    let (reply, answer) = oneshot::channel();
    assert!(writer.write(Note { number, asked_at: Instant::now(), reply }).is_ok(), "the queue is full");
    answer
}

/// The session whose batch waits for the table `notes`.
async fn waits_for_the_table(world: &World) -> i32 {
    let waiting =
        "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO notes%'";
    wait_for("a batch waits for the table", SOON, async || {
        sqlx::query_scalar(waiting).fetch_optional(&world.pool).await.unwrap()
    })
    .await
}

async fn count(world: &World, table: &str) -> i64 {
    sqlx::query_scalar(&format!("SELECT count(*) FROM {table}")).fetch_one(&world.pool).await.unwrap()
}

/// A lane with a long queue does not keep the other waiting, and both use one session.
#[tokio::test]
async fn two_kinds_of_work_take_turns_on_one_connection() {
    let world = World::start().await;
    let (running, [notes, strokes], mut batches) = two_lanes(&world).await;
    let mut lock = world.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE notes").execute(&mut *lock).await.unwrap();
    let first = ask(&notes, 7);
    waits_for_the_table(&world).await;
    let mut answers: Vec<_> = (0..100).map(|number| ask(&notes, number)).collect();
    answers.extend((0..20).map(|number| ask(&strokes, number)));
    assert_eq!((notes.depth(), strokes.depth()), (100, 20));
    lock.rollback().await.unwrap();
    assert_eq!(first.await.unwrap(), Ok(7));
    for (index, answer) in answers.into_iter().enumerate() {
        let number = i32::try_from(index % 100).unwrap();
        assert_eq!(answer.await.unwrap(), Ok(number));
    }
    drop((notes, strokes));
    tokio::time::timeout(SOON, running).await.expect("it ends with its writers").unwrap();
    let mut written = Vec::new();
    while let Ok(batch) = batches.try_recv() {
        written.push(batch);
    }
    let tables: Vec<_> = written.iter().map(|(table, _, _)| *table).collect();
    assert_eq!(tables[..5], ["notes", "notes", "strokes", "notes", "strokes"], "{written:?}");
    assert!(written.iter().all(|(_, session, _)| *session == written[0].1), "{written:?}");
    assert!(written[1..].iter().all(|(_, _, items)| *items == 10), "{written:?}");
    assert_eq!((count(&world, "notes").await, count(&world, "strokes").await), (101, 20));
    world.close().await;
}

/// The three ends of a batch: committed, surely not written, not known.
#[tokio::test]
async fn what_became_of_a_batch_is_told_as_far_as_it_is_known() {
    let world = World::start().await;
    let (_running, [notes, strokes], _batches) = two_lanes(&world).await;
    assert_eq!(ask(&notes, 1).await.unwrap(), Ok(1));
    assert_eq!(ask(&notes, -1).await.unwrap(), Err(WriteError::NotWritten), "Postgres has refused it");
    // The session is not used again; what is asked until there is another one is refused.
    wait_until("it is connected again", SOON, async || ask(&strokes, 2).await.unwrap() == Ok(2)).await;
    assert_eq!(count(&world, "notes").await, 1);

    // Its batch is on its way when the session ends without an answer.
    let mut lock = world.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE notes").execute(&mut *lock).await.unwrap();
    let unknown = ask(&notes, 3);
    let session = waits_for_the_table(&world).await;
    sqlx::query("SELECT pg_terminate_backend($1)").bind(session).execute(&world.pool).await.unwrap();
    assert_eq!(unknown.await.unwrap(), Err(WriteError::Unknown));
    lock.rollback().await.unwrap();
    world.close().await;
}

/// Nobody waits for all the batches ahead while Postgres is slow.
#[tokio::test]
async fn an_item_that_has_waited_too_long_is_refused() {
    let world = World::start().await;
    let (_running, [notes, _strokes], _batches) = two_lanes(&world).await;
    let (reply, answer) = oneshot::channel();
    let long_ago = Instant::now().checked_sub(Duration::from_secs(3)).unwrap();
    assert!(notes.write(Note { number: 1, asked_at: long_ago, reply }).is_ok());
    let in_time = ask(&notes, 2);
    assert_eq!(answer.await.unwrap(), Err(WriteError::Overloaded));
    assert_eq!(in_time.await.unwrap(), Ok(2));
    assert_eq!(count(&world, "notes").await, 1);
    world.close().await;
}

/// As a migration does while the process runs: the statement of the lane returns another type.
#[tokio::test]
async fn a_statement_that_a_migration_made_stale_is_prepared_again_at_once() {
    let world = World::bare(1).await;
    world.migrate().await;
    let (running, lanes, mut batches) = two_lanes(&world).await;
    let mut sessions = Vec::new();
    for number in 0..3 {
        if number > 0 {
            let change = format!(
                "CREATE DOMAIN counted_{number} AS integer; ALTER TABLE notes ALTER number TYPE counted_{number}"
            );
            sqlx::raw_sql(&change).execute(&world.pool).await.unwrap();
        }
        assert_eq!(ask(&lanes[0], number).await.unwrap(), Ok(number));
        sessions.push(batches.recv().await.unwrap().1);
    }
    assert!(sessions.windows(2).all(|two| two[0] == two[1]), "{sessions:?}");
    drop(lanes);
    running.await.unwrap();
    world.close().await;
}
