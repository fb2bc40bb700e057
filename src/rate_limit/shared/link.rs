//! A worker's connection to the store, kept by a task of its own: no request ever waits for it to
//! be opened, and none asks while it does not answer.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::Shared;
use super::connect::{Connected, Trouble};
use super::debts::Debts;
use super::memory::Memory;
use super::script::{self, Asked, Quota, Verdict};

/// First and longest pause before it is tried again.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];
/// A store that has answered for so long has no pauses to its account.
const STEADY: Duration = Duration::from_secs(1);
/// A connection on which nothing was answered for so long is opened anew.
const DEAD: Duration = Duration::from_secs(1);
/// How often a quiet connection is tried, so that a request does not find it dead.
const QUIET: Duration = Duration::from_secs(10);

/// Most buckets of one call.
const AT_ONCE: usize = 64;

/// One worker's way to the store.
pub(super) struct Link {
    pub(super) shared: Arc<Shared>,
    /// What calls are made on, while they are answered.
    calls: RefCell<Option<MultiplexedConnection>>,
    /// Tells a connection from the one before.
    number: Cell<u64>,
    lost: Notify,
    trouble: RefCell<Option<Trouble>>,
    pub(super) memory: Memory,
    pub(super) debts: Debts,
}

/// What became of a call.
pub(super) enum Answer {
    Verdicts(Vec<Verdict>),
    /// None came in time; it may yet.
    Late(Late),
    /// It was not made, or it failed.
    No,
}

/// An answer that nobody waits for any more.
pub(super) type Late = Pin<Box<dyn Future<Output = redis::RedisResult<Vec<Verdict>>>>>;

impl Link {
    pub(super) fn new(shared: Arc<Shared>) -> Rc<Self> {
        shared.reach.joined();
        Rc::new(Self {
            shared,
            calls: RefCell::default(),
            number: Cell::default(),
            lost: Notify::new(),
            trouble: RefCell::default(),
            memory: Memory::default(),
            debts: Debts::default(),
        })
    }

    /// Asks the store. Where it does not answer, whoever asks has to decide by himself.
    pub(super) async fn ask(&self, asked: &[Asked<'_>]) -> Answer {
        let metrics = &self.shared.metrics;
        let Some(calls) = self.calls.borrow().clone() else {
            metrics.unasked.inc();
            return Answer::No;
        };
        let (number, begun) = (self.number.get(), Instant::now());
        let mut called = Box::pin(script::call(calls, asked));
        let trouble = match tokio::time::timeout(self.shared.timeout, &mut called).await {
            Ok(Ok(verdicts)) => {
                metrics.answered.inc();
                metrics.duration.observe(begun.elapsed().as_secs_f64());
                return Answer::Verdicts(verdicts);
            }
            Ok(Err(e)) => {
                metrics.failed.inc();
                Trouble::from(e)
            }
            Err(_elapsed) => {
                metrics.late.inc();
                self.give_up(number, Trouble::Slow);
                return Answer::Late(called);
            }
        };
        self.give_up(number, trouble);
        Answer::No
    }

    /// A call has failed: no more of them until the store has proved itself. One that was made on a
    /// connection of the past changes nothing.
    fn give_up(&self, number: u64, trouble: Trouble) {
        if self.number.get() == number && self.close(&trouble) {
            self.trouble.replace(Some(trouble));
            self.lost.notify_one();
        }
    }

    /// Whether it was open.
    fn close(&self, trouble: &Trouble) -> bool {
        let open = self.calls.take().is_some();
        if open {
            self.shared.reach.note(trouble);
            self.shared.reach.fails();
        }
        open
    }

    fn open(&self, calls: &MultiplexedConnection) {
        if self.calls.replace(Some(calls.clone())).is_none() {
            self.number.set(self.number.get() + 1);
            self.shared.reach.answers();
        }
    }

    /// Connects, and connects again, for as long as anybody wants it.
    async fn keep(&self) {
        let quota = Quota::new(Duration::ZERO, 1);
        let bucket = self.shared.bucket("probe", "");
        // It takes a token that is back at once: what cannot be written is of no use.
        let probe = Asked {
            bucket: &bucket,
            quota: &quota,
            takes: true,
            binds: false,
        };
        let mut pause = Pause::default();
        loop {
            let trouble = match self.shared.store.connect(&probe).await {
                Ok(mut connected) => {
                    // It may be another server, or one that has forgotten.
                    self.memory.forget();
                    self.use_it(&mut connected, &probe, &mut pause).await
                }
                Err(trouble) => trouble,
            };
            self.shared.reach.note(&trouble);
            pause.wait().await;
        }
    }

    /// Lets requests ask for as long as it answers in time; until it has to be opened anew.
    async fn use_it(
        &self,
        connected: &mut Connected,
        probe: &Asked<'_>,
        pause: &mut Pause,
    ) -> Trouble {
        let mut heard = Instant::now();
        loop {
            let proved = self.prove(&mut connected.calls, probe);
            let trouble = match tokio::time::timeout(self.shared.timeout, proved).await {
                Ok(Ok(())) => {
                    self.open(&connected.calls);
                    let opened = Instant::now();
                    tokio::select! {
                        () = self.lost.notified() => {}
                        () = connected.ended() => {
                            self.close(&Trouble::Io(ErrorKind::ConnectionReset));
                        }
                        () = tokio::time::sleep(QUIET) => {
                            heard = opened;
                            continue;
                        }
                    }
                    heard = Instant::now();
                    if opened.elapsed() > STEADY {
                        *pause = Pause::default();
                    }
                    let trouble = self.trouble.take();
                    trouble.unwrap_or(Trouble::Io(ErrorKind::ConnectionReset))
                }
                Ok(Err(e)) => e.into(),
                Err(_elapsed) => Trouble::Slow,
            };
            self.close(&trouble);
            self.shared.reach.note(&trouble);
            if !trouble.passes() || heard.elapsed() > DEAD {
                return trouble;
            }
            pause.wait().await;
        }
    }
}

impl Link {
    /// Asks for something of no account, and settles what was decided without the store.
    async fn prove(
        &self,
        calls: &mut MultiplexedConnection,
        probe: &Asked<'_>,
    ) -> redis::RedisResult<()> {
        script::call(calls.clone(), std::slice::from_ref(probe)).await?;
        // What was late has been answered before: then it is known what it has taken.
        tokio::task::yield_now().await;
        for some in self.debts.all(Instant::now()).chunks(AT_ONCE) {
            script::settle(calls, some).await?;
            self.debts.settled(some, Instant::now());
        }
        Ok(())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.reach.left(self.calls.get_mut().is_some());
    }
}

/// Longer and longer, and never the same for all.
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(PAUSES[0])
    }
}

impl Pause {
    async fn wait(&mut self) {
        let most = self.0;
        self.0 = (most * 2).min(PAUSES[1]);
        tokio::time::sleep(most.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
    }
}

/// A link, and the task that keeps it for as long as this is there.
pub(super) struct Kept {
    pub(super) link: Rc<Link>,
    _keeps: AbortOnDropHandle<()>,
}

impl Kept {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let link = Link::new(shared);
        let owner = Rc::clone(&link);
        let keeps = tokio::task::spawn_local(async move { owner.keep().await });
        Self {
            link,
            _keeps: AbortOnDropHandle::new(keeps),
        }
    }
}
