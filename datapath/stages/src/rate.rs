//! A token bucket per CPU and use.

use abi::Bucket;

use crate::Context;

/// How fast a bucket fills and how much it holds.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Slot in the table, `abi::tables::bucket`.
    pub slot: u32,
    /// Nanoseconds per token.
    pub interval: u64,
    /// Most tokens.
    pub burst: u64,
}

impl Rate {
    /// Takes a token if there is one.
    pub fn take<C: Context>(&self, cx: &mut C) -> bool {
        let now = cx.now();
        cx.bucket(self.slot, |bucket| self.take_from(bucket, now))
            .unwrap_or(false)
    }

    fn take_from(&self, bucket: &mut Bucket, now: u64) -> bool {
        if bucket.filled == 0 {
            *bucket = Bucket {
                filled: now.max(1),
                tokens: self.burst,
            };
        }
        // An interval is a constant other than zero; the division never fails.
        let earned = now
            .saturating_sub(bucket.filled)
            .checked_div(self.interval)
            .unwrap_or(0);
        if earned > 0 {
            bucket.tokens = bucket.tokens.saturating_add(earned).min(self.burst);
            bucket.filled = bucket.filled.saturating_add(earned.saturating_mul(self.interval));
        }
        let has_token = bucket.tokens > 0;
        bucket.tokens = bucket.tokens.saturating_sub(1);
        has_token
    }
}
