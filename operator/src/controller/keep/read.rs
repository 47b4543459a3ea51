//! Reads the report of a pass from its pod's log: exactly the lines that the termination message counts and digests, or none.

use std::sync::Arc;

use futures::{AsyncBufReadExt, AsyncReadExt};
use holdfast_crds::{AgentResult, KEEP_LINE, KeepLine, KeepSummary, document::Sha256};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use kube::{Api, ResourceExt, api::LogParams};

use crate::{
    context::{Context, Error, chain},
    job::MAIN_CONTAINER,
    watch::Key,
};

/// The most bytes of a log that are read. The kubelet keeps 10 MiB of a container's log by default.
const LOG_LIMIT: u64 = 16 << 20;
/// For so long after the container's end a log that cannot be read is asked for again.
const PATIENCE: SignedDuration = SignedDuration::from_mins(10);

/// The lines of a report, or why there are none.
pub type Read = Result<Vec<KeepLine>, String>;

/// The report that `summary` is of, from the log of that pod of the Job that ended with it.
pub async fn report(context: &Context, job: &Key, summary: &KeepSummary) -> Result<Read, Error> {
    let pods = context.caches.pods_of(job);
    let Some((pod, ended)) = pods.iter().find_map(|pod| Some((pod, ended_with(pod, summary)?))) else {
        return Ok(Err("its pod is gone, and its log with it".to_owned()));
    };
    match read(context, job, pod).await {
        Ok(text) => Ok(lines(&text, summary)),
        // The log is gone for good, or we may not read it: another pass tells the same.
        Err(error) if matches!(error.status().map(|status| status.code), Some(400..500)) => Ok(Err(chain(&error))),
        Err(error) if context.clock.now().duration_since(ended) > PATIENCE => Ok(Err(chain(&error))),
        Err(error) => Err(error),
    }
}

/// When the pod ended, if it left this summary.
fn ended_with(pod: &Pod, summary: &KeepSummary) -> Option<Timestamp> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let main = statuses.iter().find(|status| status.name == MAIN_CONTAINER)?;
    let ended: &ContainerStateTerminated = main.state.as_ref()?.terminated.as_ref()?;
    let result: AgentResult = serde_json::from_str(ended.message.as_deref()?.trim()).ok()?;
    let kept = result.kept?;
    (kept.sha256 == summary.sha256 && kept.lines == summary.lines)
        .then(|| ended.finished_at.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

/// The lines of the report in the log, each with its line feed.
async fn read(context: &Context, job: &Key, pod: &Arc<Pod>) -> Result<String, Error> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &job.namespace);
    let parameters = LogParams {
        container: Some(MAIN_CONTAINER.to_owned()),
        limit_bytes: i64::try_from(LOG_LIMIT).ok(),
        ..LogParams::default()
    };
    let doing = || format!("read the log of the pod {}/{}", job.namespace, pod.name_any());
    let log = api
        .log_stream(&pod.name_any(), &parameters)
        .await
        .map_err(Error::calling(doing()))?;
    // The server may give more than it was asked for.
    let mut log = Box::pin(log.take(LOG_LIMIT));
    let (mut text, mut line) = (String::new(), Vec::new());
    loop {
        line.clear();
        let length = log
            .read_until(b'\n', &mut line)
            .await
            .map_err(|error| Error::calling(doing())(kube::Error::Service(error.into())))?;
        if length == 0 {
            return Ok(text);
        }
        if let Ok(line) = std::str::from_utf8(&line)
            && line.starts_with(KEEP_LINE)
        {
            text.push_str(line);
        }
    }
}

/// The lines of a report, if they are the ones that the summary is of.
fn lines(text: &str, summary: &KeepSummary) -> Read {
    let found = text.lines().count();
    if u64::try_from(found).unwrap_or(u64::MAX) != summary.lines {
        return Err(format!(
            "its log has {found} lines of the report, expected {}: the kubelet may have dropped the beginning of a long log",
            summary.lines
        ));
    }
    let digest = Sha256::of(text.as_bytes()).to_string();
    if digest != summary.sha256 {
        return Err(format!(
            "the lines of the report in its log have the SHA-256 {digest}, expected {}: they are not what the keeper wrote",
            summary.sha256
        ));
    }
    let parse = |line: &str| {
        serde_json::from_str(line.strip_prefix(KEEP_LINE).unwrap_or(line))
            .map_err(|error| format!("a line of the report cannot be read ({error}); operator and agent must be of one release"))
    };
    text.lines().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use holdfast_crds::SourceReport;

    use super::*;

    #[test]
    fn only_the_lines_that_the_summary_is_of_are_believed() {
        let line = |copies| {
            let line = KeepLine::Source(SourceReport {
                copies,
                ..SourceReport::default()
            });
            format!("{KEEP_LINE}{}\n", serde_json::to_string(&line).unwrap())
        };
        let text = line(1) + &line(2);
        let summary = KeepSummary {
            lines: 2,
            sha256: Sha256::of(text.as_bytes()).to_string(),
            ..KeepSummary::default()
        };
        assert_eq!(lines(&text, &summary).unwrap().len(), 2);
        for (wrong, says) in [
            (line(1), "1 lines"),
            (line(1) + &line(3), "SHA-256"),
            (line(2) + &line(1), "SHA-256"),
            (line(1) + &line(2) + &line(2), "3 lines"),
        ] {
            let refused = lines(&wrong, &summary).unwrap_err();
            assert!(refused.contains(says), "{refused}");
        }
        let unknown = format!("{KEEP_LINE}{{\"more\":{{}}}}\n");
        let summary = KeepSummary {
            lines: 1,
            sha256: Sha256::of(unknown.as_bytes()).to_string(),
            ..KeepSummary::default()
        };
        assert!(lines(&unknown, &summary).unwrap_err().contains("one release"));
    }
}
