//! Reads the report of an agent from its pod's log: exactly the lines that the termination message counts and digests, or none.

use std::sync::Arc;

use futures::{AsyncBufReadExt, AsyncReadExt};
use holdfast_crds::{AgentResult, document::Sha256};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use kube::{Api, ResourceExt, api::LogParams};
use serde::de::DeserializeOwned;

use crate::{
    context::{Context, Error, chain},
    job::MAIN_CONTAINER,
    watch::Key,
};

/// The most bytes of a log that are read. The kubelet keeps 10 MiB of a container's log by default.
const LOG_LIMIT: u64 = 16 << 20;
/// For so long after the container's end a log that cannot be read is asked for again.
const PATIENCE: SignedDuration = SignedDuration::from_mins(10);

/// Which lines of a log are a report.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// What each of them begins with.
    pub mark: &'static str,
    /// How many they are.
    pub lines: u64,
    /// SHA-256 of them, each with its line feed.
    pub sha256: &'a str,
    /// The same of the result that a pod left, as `(lines, sha256)`.
    pub of: fn(&AgentResult) -> Option<(u64, &str)>,
}

/// The lines of a report, or why there are none.
pub type Read<T> = Result<Vec<T>, String>;

/// The report from the log of that pod of the Job that ended with it.
pub async fn read<T: DeserializeOwned>(context: &Context, job: &Key, report: &Report<'_>) -> Result<Read<T>, Error> {
    let pods = context.caches.pods_of(job);
    let Some((pod, ended)) = pods.iter().find_map(|pod| Some((pod, ended_with(pod, report)?))) else {
        return Ok(Err("its pod is gone, and its log with it".to_owned()));
    };
    match text(context, job, pod, report.mark).await {
        Ok(text) => Ok(lines(&text, report)),
        // The log is gone for good, or we may not read it: another pass tells the same. That the API server has too much to do passes.
        Err(error) if matches!(error.status().map(|status| status.code), Some(code @ 400..500) if !matches!(code, 408 | 409 | 429)) => {
            Ok(Err(chain(&error)))
        }
        Err(error) if context.clock.now().duration_since(ended) > PATIENCE => Ok(Err(chain(&error))),
        Err(error) => Err(error),
    }
}

/// When the pod ended, if it left the summary of this report.
fn ended_with(pod: &Pod, report: &Report<'_>) -> Option<Timestamp> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let main = statuses.iter().find(|status| status.name == MAIN_CONTAINER)?;
    let ended: &ContainerStateTerminated = main.state.as_ref()?.terminated.as_ref()?;
    let result: AgentResult = serde_json::from_str(ended.message.as_deref()?.trim()).ok()?;
    ((report.of)(&result) == Some((report.lines, report.sha256)))
        .then(|| ended.finished_at.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

/// The lines of the report in the log, each with its line feed.
async fn text(context: &Context, job: &Key, pod: &Arc<Pod>, mark: &str) -> Result<String, Error> {
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
            && line.starts_with(mark)
        {
            text.push_str(line);
        }
    }
}

/// The lines of a report, if they are the ones that the summary is of.
fn lines<T: DeserializeOwned>(text: &str, report: &Report<'_>) -> Read<T> {
    let found = text.lines().count();
    if u64::try_from(found).unwrap_or(u64::MAX) != report.lines {
        return Err(format!(
            "its log has {found} lines of the report, expected {}: the kubelet may have dropped the beginning of a long log",
            report.lines
        ));
    }
    let digest = Sha256::of(text.as_bytes()).to_string();
    if digest != report.sha256 {
        return Err(format!(
            "the lines of the report in its log have the SHA-256 {digest}, expected {}: they are not what the agent wrote",
            report.sha256
        ));
    }
    let parse = |line: &str| {
        serde_json::from_str(line.strip_prefix(report.mark).unwrap_or(line))
            .map_err(|error| format!("a line of the report cannot be read ({error}); operator and agent must be of one release"))
    };
    text.lines().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use holdfast_crds::{KEEP_LINE, KeepLine, SourceReport};

    use super::*;

    fn report(lines: u64, sha256: &str) -> Report<'_> {
        Report {
            mark: KEEP_LINE,
            lines,
            sha256,
            of: |_| None,
        }
    }

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
        let digest = Sha256::of(text.as_bytes()).to_string();
        assert_eq!(lines::<KeepLine>(&text, &report(2, &digest)).unwrap().len(), 2);
        for (wrong, says) in [
            (line(1), "1 lines"),
            (line(1) + &line(3), "SHA-256"),
            (line(2) + &line(1), "SHA-256"),
            (line(1) + &line(2) + &line(2), "3 lines"),
        ] {
            let refused = lines::<KeepLine>(&wrong, &report(2, &digest)).unwrap_err();
            assert!(refused.contains(says), "{refused}");
        }
        let unknown = format!("{KEEP_LINE}{{\"more\":{{}}}}\n");
        let digest = Sha256::of(unknown.as_bytes()).to_string();
        assert!(
            lines::<KeepLine>(&unknown, &report(1, &digest))
                .unwrap_err()
                .contains("one release")
        );
    }
}
