//! A way to Redis that misbehaves on command.
//!
//! It passes whole messages and knows which reply answers which request. So it can do what no cable does on purpose: let
//! Redis carry out one certain call and lose the answer. It also cuts connections, refuses new ones, goes silent
//! (half-open: sockets stay, nothing moves) and slows down. One task serves it; it ends with its owner.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::redis::free_port;
use super::replica::Settings;
use super::resp::{Messages, words};
use super::{PATIENCE, holds, wait_for};

/// What happens to a call that steps into a trap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is carried out; the answer is lost and the connection breaks.
    LoseReply,
    /// It is carried out; the answer does not come, nor does anything else on this connection.
    SilenceReply,
    /// It is not carried out, and nothing moves on this connection any more.
    SilenceRequest,
}

/// Waits for a certain call.
pub(crate) struct Trap {
    call: String,
    about: String,
    answer: String,
    fate: Fate,
    left: AtomicUsize,
    sprung: AtomicUsize,
}

impl Trap {
    /// For the next call of a command (`XREADGROUP`) or of a function (`settle`).
    pub(crate) fn on(call: &str, fate: Fate) -> Self {
        Self {
            call: call.to_owned(),
            about: String::new(),
            answer: String::new(),
            fate,
            left: AtomicUsize::new(1),
            sprung: AtomicUsize::new(0),
        }
    }

    /// Only with this in one of its arguments.
    pub(crate) fn about(mut self, text: &str) -> Self {
        text.clone_into(&mut self.about);
        self
    }

    /// Only with this in the answer.
    pub(crate) fn answered_with(mut self, text: &str) -> Self {
        text.clone_into(&mut self.answer);
        self
    }

    /// The next `times` such calls.
    pub(crate) fn times(self, times: usize) -> Self {
        self.left.store(times, Ordering::Release);
        self
    }

    /// How many calls stepped into it.
    pub(crate) fn sprung(&self) -> usize {
        self.sprung.load(Ordering::Acquire)
    }

    /// Waits until a call stepped into it.
    pub(crate) async fn until_sprung(&self) {
        wait_for(&format!("a call of {} in the trap", self.call), async || {
            holds(self.sprung() > 0, || "none".to_owned())
        })
        .await;
    }

    fn waits_for(&self, words: &[&[u8]]) -> bool {
        let is_function = |name: &&[u8]| name.ends_with(format!("_{}", self.call).as_bytes());
        let is_called = match words {
            [b"FCALL" | b"FCALL_RO", name, ..] => is_function(name),
            [command, ..] => command.eq_ignore_ascii_case(self.call.as_bytes()),
            [] => false,
        };
        is_called && (self.about.is_empty() || words.iter().any(|word| contains(word, &self.about)))
    }

    /// Whether the call ends here.
    fn springs(&self, answer: &[u8]) -> bool {
        if !self.answer.is_empty() && !contains(answer, &self.answer) {
            return false;
        }
        let taken = self
            .left
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1));
        if taken.is_ok() {
            self.sprung.fetch_add(1, Ordering::AcqRel);
        }
        taken.is_ok()
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// How the proxy behaves towards everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    Refused,
    Silent,
}

#[derive(Debug, Clone, Copy)]
struct Conditions {
    way: Way,
    delay: Duration,
    /// A connection does not outlive the number under which it was made.
    cuts: u64,
}

struct Shared {
    upstream: u16,
    conditions: watch::Sender<Conditions>,
    traps: Mutex<Vec<Arc<Trap>>>,
    open: AtomicUsize,
}

impl Shared {
    fn traps(&self) -> MutexGuard<'_, Vec<Arc<Trap>>> {
        self.traps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fate of a call that steps into a trap: as it comes, when there is no answer yet, or with its answer.
    fn fate_of(&self, request: &[u8], answer: Option<&[u8]>) -> Option<Fate> {
        let traps = self.traps();
        if traps.is_empty() {
            return None;
        }
        let words = words(request);
        let is_now = |trap: &&Arc<Trap>| (trap.fate == Fate::SilenceRequest) == answer.is_none();
        let mut waiting = traps.iter().filter(is_now).filter(|trap| trap.waits_for(&words));
        waiting
            .find(|trap| trap.springs(answer.unwrap_or_default()))
            .map(|trap| trap.fate)
    }
}

/// The proxy of one client, or of several.
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

impl Proxy {
    /// A proxy in front of what listens on `upstream`, passing everything.
    pub(crate) async fn start(upstream: u16) -> Self {
        let port = free_port();
        let listener = listen(port).await;
        let conditions = watch::Sender::new(Conditions {
            way: Way::Open,
            delay: Duration::ZERO,
            cuts: 0,
        });
        let shared = Arc::new(Shared {
            upstream,
            conditions,
            traps: Mutex::default(),
            open: AtomicUsize::new(0),
        });
        let serving = tokio::spawn(serve(Arc::clone(&shared), port, listener));
        Self { port, shared, serving }
    }

    /// How replicas on this way to Redis are started.
    pub(crate) fn replica(&self) -> Settings {
        Settings::new(&self.url())
    }

    /// Where Redis is on this way.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Sets a trap; of several that wait for the same call the first counts.
    pub(crate) fn set(&self, trap: Trap) -> Arc<Trap> {
        let trap = Arc::new(trap);
        self.shared.traps().push(Arc::clone(&trap));
        trap
    }

    /// How many connections pass through it.
    pub(crate) fn connections(&self) -> usize {
        self.shared.open.load(Ordering::Acquire)
    }

    /// Breaks all connections; new ones pass.
    pub(crate) fn cut(&self) {
        self.change(|conditions| conditions.cuts += 1);
    }

    /// Breaks all connections and refuses new ones until [`Self::heal`].
    pub(crate) fn refuse(&self) {
        self.change(|conditions| {
            conditions.way = Way::Refused;
            conditions.cuts += 1;
        });
    }

    /// Nothing moves any more on all connections, and on those that are made until [`Self::heal`]. They never recover:
    /// their clients must find out by themselves.
    pub(crate) fn silence(&self) {
        self.change(|conditions| conditions.way = Way::Silent);
    }

    /// Every answer comes later by so much.
    pub(crate) fn slow_down(&self, delay: Duration) {
        self.change(|conditions| conditions.delay = delay);
    }

    /// New connections pass at once again, and no trap is left.
    pub(crate) fn heal(&self) {
        self.shared.traps().clear();
        self.change(|conditions| {
            conditions.way = Way::Open;
            conditions.delay = Duration::ZERO;
        });
    }

    fn change(&self, change: impl FnOnce(&mut Conditions)) {
        self.shared.conditions.send_modify(change);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn listen(port: u16) -> TcpListener {
    let began = Instant::now();
    loop {
        match TcpListener::bind(("127.0.0.1", port)).await {
            Ok(listener) => return listener,
            Err(error) => assert!(
                began.elapsed() < PATIENCE,
                "the proxy can not listen on {port}: {error}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
}

/// Accepts connections; they end with it.
async fn serve(shared: Arc<Shared>, port: u16, listener: TcpListener) {
    let mut listener = Some(listener);
    let mut conditions = shared.conditions.subscribe();
    let mut connections = JoinSet::new();
    loop {
        let way = conditions.borrow_and_update().way;
        if way == Way::Refused {
            listener = None;
        } else if listener.is_none() {
            listener = Some(listen(port).await);
        }
        let accept = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = conditions.changed() => if changed.is_err() { return },
            Ok((client, _)) = accept => {
                connections.spawn(connect(Arc::clone(&shared), client));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(shared: Arc<Shared>, mut client: TcpStream) {
    shared.open.fetch_add(1, Ordering::AcqRel);
    if let Ok(mut server) = TcpStream::connect(("127.0.0.1", shared.upstream)).await {
        // An error of either side ends the connection, as it would without anything in between.
        let is_silent = pass(&shared, &mut client, &mut server).await.unwrap_or(false);
        if is_silent {
            // `server` stays open: Redis goes on serving a client that it does not reach.
            swallow(&shared, &mut client).await;
        }
    }
    shared.open.fetch_sub(1, Ordering::AcqRel);
}

/// Reads and answers nothing, until the client gives up.
async fn swallow(shared: &Shared, client: &mut TcpStream) {
    let cuts = shared.conditions.borrow().cuts;
    let mut conditions = shared.conditions.subscribe();
    let mut nothing = [0; 4096];
    loop {
        tokio::select! {
            changed = conditions.changed() => {
                if changed.is_err() || conditions.borrow_and_update().cuts != cuts {
                    return;
                }
            }
            read = client.read(&mut nothing) => if !matches!(read, Ok(1..)) { return },
        }
    }
}

/// Passes messages on. Answers whether the connection is to stay and be silent, or to end.
async fn pass(shared: &Shared, client: &mut TcpStream, server: &mut TcpStream) -> std::io::Result<bool> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let mut conditions = shared.conditions.subscribe();
    let cuts = conditions.borrow().cuts;
    let (mut requests, mut replies) = (Messages::default(), Messages::default());
    // The calls that are under way, in their order.
    let mut waiting: VecDeque<Vec<u8>> = VecDeque::new();
    if conditions.borrow().way == Way::Silent {
        return Ok(true);
    }
    loop {
        tokio::select! {
            biased;
            changed = conditions.changed() => {
                let now = *conditions.borrow_and_update();
                if changed.is_err() || now.cuts != cuts {
                    return Ok(false);
                }
                if now.way == Way::Silent {
                    return Ok(true);
                }
            }
            read = server.read_buf(&mut replies.bytes) => {
                if read? == 0 {
                    return Ok(false);
                }
                let mut passed = Vec::new();
                let mut end = None;
                while let Some(reply) = replies.next() {
                    // What the server says unasked answers no request.
                    let request = if reply[0] == b'>' { None } else { waiting.pop_front() };
                    if let Some(fate) = request.and_then(|request| shared.fate_of(&request, Some(&reply))) {
                        end = Some(fate == Fate::SilenceReply);
                        break;
                    }
                    passed.extend(reply);
                }
                let delay = conditions.borrow().delay;
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                client.write_all(&passed).await?;
                if let Some(is_silent) = end {
                    return Ok(is_silent);
                }
            }
            read = client.read_buf(&mut requests.bytes) => {
                if read? == 0 {
                    return Ok(false);
                }
                let mut passed = Vec::new();
                let mut is_silent = false;
                while let Some(request) = requests.next() {
                    if shared.fate_of(&request, None).is_some() {
                        is_silent = true;
                        break;
                    }
                    passed.extend(&request);
                    waiting.push_back(request);
                }
                server.write_all(&passed).await?;
                if is_silent {
                    return Ok(true);
                }
            }
        }
    }
}
