//! The service, `connect-trace serve`: its account while it runs.

use anyhow::Result;

use crate::{Test, service::Service, truth::truth};

pub const TESTS: &[Test<()>] = crate::tests![
    OldestAndNewest: [
        every_call_is_in_the_metrics_and_no_reading_of_them,
    ],
];

fn every_call_is_in_the_metrics_and_no_reading_of_them((): ()) -> Result<()> {
    const CALLS: &str = "connect_trace_connects_total";
    let service = Service::start("")?;
    assert_eq!(service.get("/healthz")?.status, 200);
    let before = service.metrics()?;
    assert_eq!(before.sum(CALLS, &[]), 0.0);
    truth("v4 --count 30")?;
    truth("v6 --count 11")?;
    let after = service.metrics()?;
    after.ensure_not_before(&before)?;
    assert_eq!(after.sum(CALLS, &["network_type=\"ipv4\""]), 30.0);
    assert_eq!(after.sum(CALLS, &["network_type=\"ipv6\""]), 11.0);
    assert_eq!(after.sum(CALLS, &[]), 41.0);
    let page = service.get_through_tcp("/metrics")?;
    assert!(page.head.contains("text/plain"), "{page:?}");
    service.metrics_when("the reading through TCP is counted", |metrics| {
        metrics.sum(CALLS, &[]) == 42.0
    })?;
    service.end()?;
    Ok(())
}
