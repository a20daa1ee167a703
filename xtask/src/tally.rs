//! Counts tests from what their runners print: cargo-nextest, libtest and its imitations, and the
//! machine's own lines about programs that ended badly without a count.

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Tests that did not run: told, since a test that cannot run has to fail.
    pub(crate) skipped: u64,
    /// The test program that runs now in the machine, and its failures so far.
    running: Option<u64>,
}

/// Printed by the machine before and after each test program.
pub(crate) const PROGRAM_STARTS: &str = "portolan-vm: run ";
pub(crate) const PROGRAM_ENDS: &str = "portolan-vm: code ";

impl Tally {
    pub(crate) fn line(&mut self, line: &str) {
        let line = line.trim();
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.libtest(counts);
        } else if let Some(counts) = line.strip_prefix("Summary [") {
            self.nextest(counts);
        } else if line.starts_with(PROGRAM_STARTS) {
            self.program_ended(1);
            self.running = Some(0);
        } else if let Some(rest) = line.strip_prefix(PROGRAM_ENDS) {
            let code = rest.split(' ').next().and_then(|code| code.parse().ok()).unwrap_or(1);
            self.program_ended(code);
        }
    }

    /// No more lines: a program that is still running never ended.
    pub(crate) fn end(mut self) -> Self {
        self.program_ended(1);
        self
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// The runner has ended: bad without a failed test is a failure too, of a build, say.
    pub(crate) fn ended(&mut self, well: bool) {
        if !well && self.failed == 0 {
            self.failed = 1;
        }
    }

    /// Did all tests run and pass?
    pub(crate) fn is_good(&self) -> bool {
        self.failed == 0 && self.skipped == 0
    }

    /// `ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s`
    fn libtest(&mut self, counts: &str) {
        let failed = count_before(counts, "failed");
        self.passed += count_before(counts, "passed");
        self.failed += failed;
        self.skipped += count_before(counts, "ignored");
        if let Some(so_far) = &mut self.running {
            *so_far += failed;
        }
    }

    /// `   0.012s] 3 tests run: 2 passed, 1 failed, 0 skipped`
    fn nextest(&mut self, counts: &str) {
        self.passed += count_before(counts, "passed");
        self.failed +=
            ["failed", "exec failed", "timed out"].map(|what| count_before(counts, what)).iter().sum::<u64>();
        self.skipped += count_before(counts, "skipped");
    }

    fn program_ended(&mut self, code: u32) {
        if self.running.take() == Some(0) && code != 0 {
            self.failed += 1;
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 { write!(f, ", {} did not run", self.skipped) } else { Ok(()) }
    }
}

/// The number in front of `what`, itself before the end, a punctuation mark or a remark in brackets.
fn count_before(text: &str, what: &str) -> u64 {
    let mut counts = text.split([':', ';', ',', '.', ']', '(']).filter_map(|part| {
        let (count, counted) = part.trim().split_once(' ')?;
        if counted == what { count.parse().ok() } else { None }
    });
    counts.next().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::Tally;

    fn tally(text: &str) -> (u64, u64, u64) {
        let mut tally = Tally::default();
        text.lines().for_each(|line| tally.line(line));
        let Tally { passed, failed, skipped, running: _ } = tally.end();
        (passed, failed, skipped)
    }

    #[test]
    fn counts_what_each_runner_says() {
        assert_eq!(
            tally(
                "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s"
            ),
            (3, 0, 1)
        );
        assert_eq!(
            tally(
                "     Summary [   0.012s] 3 tests run: 2 passed (1 slow), 1 failed, 1 timed out, 4 skipped"
            ),
            (2, 2, 4)
        );
        assert_eq!(tally("     Summary [   0.1s] 1 test run: 1 passed, 0 skipped"), (1, 0, 0));
        assert_eq!(tally("test name ... ok"), (0, 0, 0));
    }

    #[test]
    fn a_program_that_breaks_off_counts_as_failed() {
        let crashed = "portolan-vm: run a\nrunning 3 tests\nportolan-vm: code 134 a";
        assert_eq!(tally(crashed), (0, 1, 0));
        assert_eq!(tally("portolan-vm: run a\nportolan-vm: run b\nportolan-vm: code 0 b"), (0, 1, 0));
        assert_eq!(tally("portolan-vm: run a"), (0, 1, 0));
        let failed =
            "portolan-vm: run a\ntest result: FAILED. 1 passed; 2 failed; 0 ignored\nportolan-vm: code 101 a";
        assert_eq!(tally(failed), (1, 2, 0));
    }
}
