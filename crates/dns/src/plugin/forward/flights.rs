//! Queries under way: who asks what is asked already waits for that answer.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// So many different queries are under way.
const FLIGHTS_MAX: usize = 8192;

/// An answer's bytes and who gave it, or what went wrong.
pub(super) type Answer = Result<(Arc<[u8]>, Arc<str>), Arc<str>>;

/// The queries.
#[derive(Debug, Default)]
pub(super) struct Flights {
    flying: Mutex<HashMap<Vec<u8>, watch::Receiver<Option<Answer>>>>,
}

/// A query under way, which ends however its task does.
struct Flight {
    flights: Arc<Flights>,
    key: Vec<u8>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights.flying.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl Flights {
    /// The answer of the query of this key: that of `fly`, unless one is under way.
    pub(super) async fn join(
        self: &Arc<Self>,
        key: Vec<u8>,
        fly: impl Future<Output = Answer> + Send + 'static,
    ) -> Answer {
        let (mut landing, start) = {
            let mut flying = self.flying.lock().unwrap_or_else(PoisonError::into_inner);
            match flying.get(&key) {
                Some(landing) => (landing.clone(), None),
                None if flying.len() >= FLIGHTS_MAX => {
                    return Err("too many different queries are under way".into());
                }
                None => {
                    let (land, landing) = watch::channel(None);
                    flying.insert(key.clone(), landing.clone());
                    (landing, Some((land, Flight { flights: self.clone(), key })))
                }
            }
        };
        // Not under the lock: a runtime that is being shut down drops the task at once, and the flight
        // with it.
        if let Some((land, flight)) = start {
            tokio::spawn(async move {
                let answer = fly.await;
                // Who comes from here on asks anew.
                drop(flight);
                let _ = land.send(Some(answer));
            });
        }
        match landing.wait_for(Option::is_some).await {
            Ok(answer) => answer.clone().unwrap_or_else(|| Err("no answer".into())),
            Err(_) => Err("the query was given up".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn equal_ones_fly_together_and_different_ones_up_to_the_limit() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let flown = Arc::new(AtomicUsize::new(0));
        let flights = Arc::new(Flights::default());
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let join = |key: u32| {
            let (flown, gate, flights) = (flown.clone(), gate.clone(), flights.clone());
            async move {
                let fly = async move {
                    flown.fetch_add(1, Ordering::Relaxed);
                    let _open = gate.acquire().await;
                    Ok((key.to_be_bytes().as_slice().into(), "".into()))
                };
                flights.join(key.to_be_bytes().to_vec(), fly).await
            }
        };
        runtime.block_on(async {
            let all: Vec<_> =
                (0..3 * FLIGHTS_MAX as u32).map(|number| tokio::spawn(join(number / 2))).collect();
            while flown.load(Ordering::Relaxed) < FLIGHTS_MAX {
                tokio::task::yield_now().await;
            }
            gate.add_permits(FLIGHTS_MAX);
            let mut answered = 0;
            for one in all {
                answered += usize::from(one.await.unwrap().is_ok());
            }
            assert_eq!(answered, 2 * FLIGHTS_MAX);
            assert!(join(1).await.is_ok());
        });
        assert_eq!(flown.load(Ordering::Relaxed), FLIGHTS_MAX + 1);
        assert!(flights.flying.lock().unwrap().is_empty());
    }

    #[test]
    fn a_runtime_that_ends_gives_the_query_up() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let handle = runtime.handle().clone();
        runtime.shutdown_timeout(std::time::Duration::from_secs(60));
        let _inside = handle.enter();
        let flights = Arc::new(Flights::default());
        let join = std::pin::pin!(flights.join(vec![1], std::future::pending()));
        let polled = join.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        assert!(matches!(polled, std::task::Poll::Ready(Err(_))), "{polled:?}");
        assert!(flights.flying.lock().unwrap().is_empty());
    }
}
