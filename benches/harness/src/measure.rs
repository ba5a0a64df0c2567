//! Samples of a case on this project and on other libraries, in turns.
//!
//! A sample is the mean time of enough calls to last some milliseconds. The samples of this project and of every peer
//! alternate in rounds, A B C A B C, so that all contestants see the same clock and the same neighbours. Between
//! rounds, probes measure the rate of multiply-adds and the bandwidth of reads of a working set of the case's size.
//! Each ratio compares two samples of one round.
//!
//! Thread pools of other libraries spin for a while after a call (Intel's for 200 ms) and would take cores from the
//! next contestant. On more than one thread, a contestant therefore waits until the process is idle, and takes a few
//! samples in each turn.

use super::record::Peer;
use super::statistics::{fastest, median, median_interval, quantile};
use std::time::{Duration, Instant};

/// Amount of measurement.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Minimum and maximum number of rounds.
    pub rounds: [usize; 2],
    /// Minimum duration of a sample.
    pub sample: Duration,
    /// Time for the samples of one contestant, within the limits of `rounds`.
    pub budget: Duration,
    /// Visits of all cases. A disturbance of some seconds affects only one visit.
    pub visits: usize,
    /// Minimum time from one visit to the next: neighbours compete for the caches for seconds at a time.
    pub apart: Duration,
}

impl Effort {
    /// Effort for figures to quote.
    pub const FULL: Self = Self {
        rounds: [7, 21],
        sample: Duration::from_millis(4),
        budget: Duration::from_millis(400),
        visits: 1,
        apart: Duration::from_secs(5),
    };

    /// Effort for a first look.
    pub const QUICK: Self = Self {
        rounds: [3, 7],
        sample: Duration::from_millis(1),
        budget: Duration::from_millis(50),
        visits: 1,
        apart: Duration::from_secs(5),
    };

    /// Divides the effort into several visits, for baselines. Each visit has at least three rounds.
    #[must_use]
    pub fn in_visits(self, visits: usize) -> Self {
        let [least, most] = self.rounds.map(|rounds| rounds.div_ceil(visits).max(3));
        Self { rounds: [least, most], budget: self.budget / visits as u32, visits, ..self }
    }
}

/// Time that woken threads run before the measurement. A scheduler may wake two threads on one core, and takes some
/// ticks to spread threads over the idle cores.
const SPREAD: Duration = Duration::from_millis(50);

/// Samples of a contestant in one turn, if pools must go idle between turns.
const BLOCK: usize = 3;

/// An implementation of a case.
pub trait Contestant {
    /// Runs `calls` calls on the contestant's threads, and returns their time in seconds.
    fn seconds(&mut self, calls: usize) -> f64;
}

impl<F: FnMut(usize) -> f64> Contestant for F {
    fn seconds(&mut self, calls: usize) -> f64 {
        self(calls)
    }
}

/// Peak and bandwidth of the machine between two rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probed {
    /// Operations per second of multiply-adds.
    pub peak: f64,
    /// Bytes per second of reads of a working set of the case's size.
    pub read: f64,
}

/// Samples of one case.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    /// Seconds of a call, by contestant and sample.
    pub seconds: Vec<Vec<f64>>,
    /// Number of samples of a contestant in each visit.
    pub visits: Vec<usize>,
    /// Operations per second of the multiply-add probes between the rounds.
    pub peaks: Vec<f64>,
    /// Bytes per second of the read probes between the rounds.
    pub reads: Vec<f64>,
    /// Cores that other processes or other virtual machines used during the samples, beyond the cores left to them:
    /// the maximum over all visits.
    pub intruders: f64,
}

/// Measures `contestants` in turns.
pub fn samples(
    contestants: &mut [&mut dyn Contestant],
    threads: usize,
    effort: &Effort,
    mut probe: impl FnMut() -> Probed,
) -> Samples {
    let mut found = Samples { seconds: vec![Vec::new(); contestants.len()], ..Samples::default() };
    let (started, others) = (Instant::now(), time_of_others());
    // A single contestant waits for no other pool.
    let wait = threads > 1 && contestants.len() > 1;
    let block = if wait { BLOCK } else { 1 };
    let calls: Vec<usize> = contestants
        .iter_mut()
        .map(|contestant| {
            if wait {
                until_idle();
            }
            contestant.seconds(1); // warms pages, caches, scratch memory, threads
            let seconds = contestant.seconds(1).max(1e-9);
            (effort.sample.as_secs_f64() / seconds).ceil().clamp(1.0, 1e7) as usize
        })
        .collect();
    let [least, most] = effort.rounds;
    let mut spent = Duration::ZERO;
    let budget = effort.budget * contestants.len() as u32;
    while found.peaks.len() < least || (found.peaks.len() < most && spent < budget) {
        if wait {
            until_idle();
        }
        let Probed { peak, read } = probe();
        found.peaks.push(peak);
        found.reads.push(read);
        for ((contestant, &calls), seconds) in contestants.iter_mut().zip(&calls).zip(&mut found.seconds) {
            if wait {
                until_idle();
            }
            let started = Instant::now();
            if calls > 1 {
                contestant.seconds(1); // reloads the caches after the other contestants
            }
            let woken = wait || (threads > 1 && seconds.is_empty());
            while woken && started.elapsed() < SPREAD {
                contestant.seconds(calls);
            }
            for _ in 0..block {
                seconds.push(contestant.seconds(calls) / calls as f64);
            }
            spent += started.elapsed();
        }
    }
    found.visits = vec![found.peaks.len() * block];
    if let Some((before, after)) = others.zip(time_of_others()) {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let used = (after - before) / started.elapsed().as_secs_f64();
        found.intruders = (used - cores.saturating_sub(threads) as f64).max(0.0);
    }
    found
}

/// Core seconds that other processes used or that the host withheld from this machine. `None` if the system does not
/// report them in Linux's format.
fn time_of_others() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let all: Vec<f64> = stat.lines().next()?.split_whitespace().skip(1).flat_map(str::parse).collect();
    // In hundredths of seconds: user, nice, system, idle, iowait, irq, softirq, steal. `user` includes guests.
    let [user, nice, system, _, _, irq, softirq, steal, ..] = all[..] else { return None };
    Some((user + nice + system + irq + softirq + steal) / 100.0 - cpu_time().as_secs_f64())
}

/// Waits until no thread of this process computes, but no longer than a second.
fn until_idle() {
    let started = Instant::now();
    settle(|| started.elapsed() < Duration::from_secs(1), cores_in_use);
}

/// Polls until the process uses at most a quarter of a core, or until `patient` returns false.
fn settle(mut patient: impl FnMut() -> bool, mut cores_in_use: impl FnMut() -> f64) {
    // `cores_in_use` sleeps, so this loop does not spin.
    while patient() && cores_in_use() > 0.25 {}
}

/// Cores that this process used while the calling thread slept. The sleep lasts two ticks of the slowest scheduler
/// (100 a second), because the kernel adds up the time of threads on other cores only at ticks.
fn cores_in_use() -> f64 {
    let (wall, cpu) = (Instant::now(), cpu_time());
    std::thread::sleep(Duration::from_millis(20));
    cpu_time().saturating_sub(cpu).as_secs_f64() / wall.elapsed().as_secs_f64()
}

/// CPU time of all threads of this process.
#[cfg(unix)]
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// Returns zero: the process always seems idle, because `std` has no clock of CPU time.
#[cfg(not(unix))]
fn cpu_time() -> Duration {
    Duration::ZERO
}

impl Samples {
    /// Adds the samples of another visit.
    pub fn extend(&mut self, other: Self) {
        self.seconds.resize(other.seconds.len(), Vec::new());
        for (mine, others) in self.seconds.iter_mut().zip(other.seconds) {
            mine.extend(others);
        }
        self.visits.extend(other.visits);
        self.peaks.extend(other.peaks);
        self.reads.extend(other.reads);
        self.intruders = self.intruders.max(other.intruders);
    }

    /// The fastest sample of contestant `i` in each visit.
    pub fn visits(&self, i: usize) -> Vec<f64> {
        let ends = self.visits.iter().scan(0, |end, n| {
            *end += n;
            Some(*end)
        });
        ends.zip(&self.visits).map(|(end, n)| fastest(&self.seconds[i][end - n..end])).collect()
    }

    /// The record of contestant `i`, with ratios to the samples of `ours`, pair by pair.
    pub fn peer(&self, i: usize, ours: Option<usize>) -> Peer {
        let ratios = ours.map(|ours| -> Vec<f64> {
            self.seconds[i].iter().zip(&self.seconds[ours]).map(|(peer, ours)| peer / ours).collect()
        });
        Peer {
            median_s: median(&self.seconds[i]),
            ratio: ratios.as_deref().map(median),
            ratio_interval: ratios.as_deref().map(median_interval),
        }
    }

    /// True if the machine was unstable: the middle half of the probes spread over more than [`DRIFT`], or their median
    /// fell short of the run's best by more than [`DRIFT`], or other processes took more than [`INTRUSION`].
    pub fn unstable(&self, best_peak: f64) -> bool {
        let [low, middle, high] = [0.25, 0.5, 0.75].map(|share| quantile(&self.peaks, share));
        let drifted = high - low > DRIFT * middle || middle < (1.0 - DRIFT) * best_peak;
        drifted || self.intruders > INTRUSION
    }
}

/// Change of the multiply-add peak beyond which a row is marked.
pub const DRIFT: f64 = 0.05;

/// Share of a core lost to other processes beyond which a row is marked. The system counts this time in hundredths of
/// a second, so a visit of a tenth of a second cannot resolve smaller shares.
pub const INTRUSION: f64 = 0.2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contestants_take_turns() {
        let log = std::cell::RefCell::new(String::new());
        let fake = |name: char, seconds: f64| {
            let log = &log;
            move |calls: usize| {
                log.borrow_mut().push(name);
                seconds * calls as f64
            }
        };
        let (mut a, mut b) = (fake('a', 0.5), fake('b', 1.0));
        let effort = Effort { rounds: [3, 3], ..Effort::QUICK };
        let found = samples(&mut [&mut a, &mut b], 1, &effort, || Probed { peak: 7.0, read: 8.0 });
        assert_eq!(*log.borrow(), "aabbababab");
        assert_eq!(found.seconds, [[0.5; 3], [1.0; 3]]);
        assert_eq!((&found.peaks, &found.reads), (&vec![7.0; 3], &vec![8.0; 3]));
        let peer = found.peer(1, Some(0));
        assert_eq!((peer.median_s, peer.ratio, peer.ratio_interval), (1.0, Some(2.0), Some([2.0; 2])));
        assert_eq!(found.peer(1, None).ratio, None);
        let mut both =
            Samples { seconds: vec![vec![3.0, 2.0], vec![4.0, 5.0]], visits: vec![2], ..found.clone() };
        both.extend(found);
        assert_eq!([both.visits(0), both.visits(1)], [[2.0, 0.5], [4.0, 1.0]]);
    }

    #[test]
    fn short_calls_are_repeated_to_fill_a_sample() {
        let mut most = 0;
        let mut short = |calls: usize| {
            most = most.max(calls);
            1e-5 * calls as f64
        };
        let effort = Effort { rounds: [1, 1], sample: Duration::from_millis(1), ..Effort::QUICK };
        let found = samples(&mut [&mut short], 1, &effort, || Probed { peak: 1.0, read: 1.0 });
        assert_eq!(most, 100);
        assert!((found.seconds[0][0] - 1e-5).abs() < 1e-12);
    }

    #[test]
    fn drift_marks_a_row() {
        let peaks = |peaks: &[f64]| Samples { peaks: peaks.to_vec(), ..Samples::default() };
        assert!(!peaks(&[100.0, 99.0, 101.0, 60.0, 100.0]).unstable(100.0), "one of five was disturbed");
        assert!(peaks(&[100.0, 80.0, 100.0, 80.0]).unstable(100.0));
        assert!(peaks(&[90.0, 90.0, 90.0]).unstable(100.0));
        assert!(Samples { intruders: 0.5, ..peaks(&[100.0]) }.unstable(100.0));
    }

    #[test]
    fn waiting_ends_when_spinning_does() {
        let looks = |uses: &[f64], patience: usize| {
            let (mut uses, mut left, mut looks) = (uses.iter(), patience, 0);
            let patient = || {
                left -= 1;
                left > 0
            };
            settle(patient, || {
                looks += 1;
                *uses.next().unwrap()
            });
            looks
        };
        assert_eq!(looks(&[0.1, 1.0], 100), 1);
        assert_eq!(looks(&[2.0, 1.0, 0.0, 1.0], 100), 3);
        assert_eq!(looks(&[1.0; 10], 6), 5, "patience ends");
    }

    #[test]
    fn the_process_clock_counts_what_is_computed() {
        let before = cpu_time();
        let started = Instant::now();
        while cpu_time() - before < Duration::from_millis(5) {
            assert!(started.elapsed() < Duration::from_secs(30), "computing costs no time");
            std::hint::spin_loop();
        }
    }
}
