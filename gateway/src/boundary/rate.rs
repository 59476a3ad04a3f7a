//! Token buckets: one for each workspace, one for each address before anyone has said who they are.
//! Who enters: a key (workspace or address) and the time.
//! What leaves: permission with the figures for the `RateLimit` headers, or how long to wait.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many requests, and how fast the allowance comes back.
#[derive(Clone, Copy, Debug, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Requests that may come at once.
    pub burst: u32,
    /// Requests a second in the long run.
    pub per_second: u32,
}

/// What is left after a request was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// The bucket's size.
    pub limit: u32,
    /// Requests that could still come at once.
    pub remaining: u32,
    /// Seconds until the bucket is full again.
    pub reset: u64,
}

/// Buckets by key, no more than a bounded number of them.
pub struct RateLimiter<K> {
    quota: Quota,
    keys_max: usize,
    buckets: Mutex<HashMap<K, Bucket>>,
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl<K: Hash + Eq + Clone> RateLimiter<K> {
    /// An empty limiter.
    pub fn new(quota: Quota, keys_max: usize) -> Self {
        Self { quota, keys_max, buckets: Mutex::new(HashMap::new()) }
    }

    /// Takes one request's worth from the key's bucket.
    ///
    /// # Errors
    /// The bucket is empty; the wait until it holds one request again.
    pub fn take(&self, key: &K, now: Instant) -> Result<Allowance, Duration> {
        self.take_many(key, now, 1)
    }

    /// Takes the worth of so many requests, or of a full bucket where that is less.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn take_many(&self, key: &K, now: Instant, requests: u32) -> Result<Allowance, Duration> {
        let wanted = f64::from(requests.min(self.quota.burst));
        let mut buckets = self.lock();
        if buckets.len() >= self.keys_max && !buckets.contains_key(key) {
            self.forget_the_full(&mut buckets, now);
        }
        let full = Bucket { tokens: f64::from(self.quota.burst), filled: now };
        let bucket = buckets.entry(key.clone()).or_insert(full);
        bucket.fill(self.quota, now);
        if bucket.tokens < wanted {
            return Err(Duration::from_secs_f64(
                (wanted - bucket.tokens) / f64::from(self.quota.per_second.max(1)),
            ));
        }
        bucket.tokens -= wanted;
        Ok(bucket.allowance(self.quota))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Bucket>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A full bucket says nothing that a new one would not; if all are in use, the fullest half goes.
    fn forget_the_full(&self, buckets: &mut HashMap<K, Bucket>, now: Instant) {
        let quota = self.quota;
        for bucket in buckets.values_mut() {
            bucket.fill(quota, now);
        }
        buckets.retain(|_, bucket| bucket.tokens < f64::from(quota.burst));
        if buckets.len() >= self.keys_max {
            let mut levels: Vec<f64> = buckets.values().map(|bucket| bucket.tokens).collect();
            levels.sort_by(f64::total_cmp);
            let middle = levels[levels.len() / 2];
            buckets.retain(|_, bucket| bucket.tokens < middle);
        }
        if buckets.len() >= self.keys_max {
            // All stand at the same level: nothing tells them apart, so start afresh rather than grow.
            buckets.clear();
        }
    }
}

impl Bucket {
    fn fill(&mut self, quota: Quota, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * f64::from(quota.per_second)).min(f64::from(quota.burst));
        self.filled = self.filled.max(now);
    }

    fn allowance(self, quota: Quota) -> Allowance {
        let missing = (f64::from(quota.burst) - self.tokens).max(0.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and burst, a u32"
        )]
        let remaining = self.tokens.max(0.0) as u32;
        let reset = Duration::from_secs_f64(missing / f64::from(quota.per_second.max(1)));
        Allowance { limit: quota.burst, remaining, reset: reset.as_secs() + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: Quota = Quota { burst: 3, per_second: 2 };

    #[test]
    fn a_burst_is_let_through_and_the_next_is_told_how_long_to_wait() {
        let limiter = RateLimiter::new(QUOTA, 8);
        let now = Instant::now();
        for remaining in [2, 1, 0] {
            assert_eq!(limiter.take(&"a", now).map(|allowance| allowance.remaining), Ok(remaining));
        }
        assert_eq!(limiter.take(&"a", now), Err(Duration::from_millis(500)));
        assert!(limiter.take(&"b", now).is_ok(), "another key has its own bucket");
        assert!(limiter.take(&"a", now + Duration::from_millis(500)).is_ok());
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_gives_nothing_away() {
        let limiter = RateLimiter::new(QUOTA, 8);
        let now = Instant::now() + Duration::from_secs(10);
        for _ in 0..3 {
            limiter.take(&"a", now).unwrap();
        }
        assert!(limiter.take(&"a", now - Duration::from_secs(10)).is_err());
        assert!(limiter.take(&"a", now).is_err());
    }

    #[test]
    fn many_addresses_do_not_make_it_grow_without_end() {
        let limiter = RateLimiter::new(QUOTA, 16);
        let now = Instant::now();
        for address in 0..10_000 {
            let _ = limiter.take(&address, now);
        }
        assert!(limiter.lock().len() <= 16);
    }

    #[test]
    fn making_room_keeps_the_emptiest_bucket() {
        let limiter = RateLimiter::new(QUOTA, 4);
        let now = Instant::now();
        while limiter.take(&0, now).is_ok() {}
        for address in 1..4 {
            limiter.take(&address, now).unwrap();
        }
        limiter.take(&99, now).unwrap();
        assert!(limiter.take(&0, now).is_err(), "the one who used up its bucket is remembered");
    }
}
