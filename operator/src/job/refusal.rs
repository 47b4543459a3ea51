//! What Kubernetes says when it does not let a pod exist or start, as our reasons. It says so in prose only; the texts were
//! collected from Kubernetes 1.35 and are in the tests.

use holdfast_crds::Reason;
use k8s_openapi::api::core::v1::Event;

/// Why a pod cannot be created (from the Job controller's events, or from the API server's answer to our own create).
pub fn of_creation(text: &str) -> Reason {
    let any = |patterns: &[&str]| patterns.iter().any(|pattern| text.contains(pattern));
    if any(&["exceeded quota", "failed quota", "insufficient quota"]) {
        Reason::QuotaExceeded
    } else if any(&["violates PodSecurity"]) {
        Reason::PodSecurityRefused
    } else if any(&["error looking up service account", "serviceaccount \""]) {
        Reason::ServiceAccountNotFound
    } else if any(&[
        " usage per Container",
        " usage per Pod",
        " limit to request ratio per ",
        "storage request per ",
    ]) {
        Reason::LimitRangeRefused
    } else {
        // Policies, webhooks, priority classes and all else that admission may refuse.
        Reason::AdmissionRefused
    }
}

/// Why the kubelet cannot mount a volume.
pub fn of_mount(text: &str) -> Reason {
    if text.contains("secret \"") && text.contains("not found") {
        Reason::SecretNotFound
    } else if text.contains("non-existent secret key") {
        Reason::SecretKeyMissing
    } else if text.contains("serviceaccounts \"") && text.contains("not found") {
        Reason::ServiceAccountNotFound
    } else {
        Reason::VolumeMountFailed
    }
}

/// Why a container waits, by the reason and message of its state; none if that is only a step on its way.
pub fn of_waiting(reason: &str, message: &str) -> Option<Reason> {
    match reason {
        "ErrImagePull"
        | "ImagePullBackOff"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "ImageInspectError"
        | "RegistryUnavailable"
        | "SignatureValidationFailed" => Some(Reason::ImagePullFailed),
        "CreateContainerConfigError" => Some(match of_mount(message) {
            Reason::VolumeMountFailed => Reason::ContainerStartFailed,
            found => found,
        }),
        "CreateContainerError"
        | "RunContainerError"
        | "StartError"
        | "ContainerCannotRun"
        | "PreStartHookError"
        | "CreatePodSandboxError" => Some(Reason::ContainerStartFailed),
        _ => None,
    }
}

/// Why the scheduler finds no node, by its message.
pub fn of_scheduling(message: &str) -> Reason {
    let text = message.to_ascii_lowercase();
    if text.contains("persistentvolumeclaim") && (text.contains("not found") || text.contains("unbound immediate")) {
        Reason::VolumeMountFailed
    } else {
        Reason::Unschedulable
    }
}

/// What an event says about why a pod does not exist or start; none if it says nothing of the kind.
pub fn of_event(event: &Event) -> Option<Reason> {
    let text = event.message.as_deref().unwrap_or_default();
    match event.reason.as_deref()? {
        "FailedCreate" => Some(of_creation(text)),
        "FailedMount" | "FailedAttachVolume" | "FailedMapVolume" => Some(of_mount(text)),
        "FailedScheduling" => Some(of_scheduling(text)),
        "FailedCreatePodSandBox" => Some(Reason::ContainerStartFailed),
        "InspectFailed" => Some(Reason::ImagePullFailed),
        _ => None,
    }
}

/// What a person can do, for the reasons of this file.
pub const fn next_step(reason: Reason) -> &'static str {
    match reason {
        Reason::SecretNotFound => "create the Secret, or correct its name; the pod then starts by itself",
        Reason::SecretKeyMissing => "add the key to the Secret, or correct the key's name; the pod then starts by itself",
        Reason::ImagePullFailed => "correct the image or its registry's credentials (job.image, job.imagePullSecrets)",
        Reason::Unschedulable => "add room, or change job.resources, job.nodeSelector or job.tolerations",
        Reason::QuotaExceeded => "raise the ResourceQuota, or lower job.resources",
        Reason::LimitRangeRefused => "change the LimitRange, or set job.resources within it",
        Reason::PodSecurityRefused => "the pod meets the restricted profile: look for what changes pods on their way",
        Reason::AdmissionRefused => "change the policy or webhook that refuses it",
        Reason::VolumeMountFailed => "look at the volume and its claim",
        Reason::ServiceAccountNotFound => "create the service account, or correct job.serviceAccountName",
        Reason::ContainerStartFailed => "look at the image and the pod's events",
        _ => "see the documentation of the reason",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Kubernetes 1.35 says it.
    const CREATION: &[(&str, Reason)] = &[
        (
            "Error creating: pods \"q-54tf2\" is forbidden: exceeded quota: tight, requested: pods=1, used: pods=0, limited: pods=0",
            Reason::QuotaExceeded,
        ),
        (
            "Error creating: pods \"q-54tf2\" is forbidden: failed quota: tight: must specify limits.cpu for: agent",
            Reason::QuotaExceeded,
        ),
        (
            "Error creating: pods \"l-mmrpn\" is forbidden: maximum memory usage per Container is 32Mi, but limit is 64Mi",
            Reason::LimitRangeRefused,
        ),
        (
            "Error creating: pods \"l-mmrpn\" is forbidden: cpu max limit to request ratio per Container is 2, but provided ratio is 20.000000",
            Reason::LimitRangeRefused,
        ),
        (
            "Error creating: pods \"p-8dxdl\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"agent\" must set securityContext.allowPrivilegeEscalation=false)",
            Reason::PodSecurityRefused,
        ),
        (
            "Error creating: pods \"nosa-\" is forbidden: error looking up service account hfr-a/absent: serviceaccount \"absent\" not found",
            Reason::ServiceAccountNotFound,
        ),
        (
            "Error creating: pods \"noprio-\" is forbidden: no PriorityClass with name absent was found",
            Reason::AdmissionRefused,
        ),
        (
            "Error creating: pods \"x-1\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no",
            Reason::AdmissionRefused,
        ),
        (
            "Error creating: admission webhook \"w.example\" denied the request: no",
            Reason::AdmissionRefused,
        ),
    ];

    #[test]
    fn refusals_of_a_pod() {
        for (text, reason) in CREATION {
            assert_eq!(of_creation(text), *reason, "{text}");
        }
    }

    #[test]
    fn volumes_that_cannot_be_mounted() {
        for (text, reason) in [
            (
                "MountVolume.SetUp failed for volume \"login\" : secret \"absent\" not found",
                Reason::SecretNotFound,
            ),
            (
                "MountVolume.SetUp failed for volume \"login\" : references non-existent secret key: username",
                Reason::SecretKeyMissing,
            ),
            (
                "MountVolume.SetUp failed for volume \"store-token\" : failed to fetch token: serviceaccounts \"a\" not found",
                Reason::ServiceAccountNotFound,
            ),
            (
                "MountVolume.SetUp failed for volume \"store-volume\" : mount failed: exit status 32",
                Reason::VolumeMountFailed,
            ),
        ] {
            assert_eq!(of_mount(text), reason, "{text}");
        }
    }

    #[test]
    fn nodes_that_cannot_be_found() {
        for (text, reason) in [
            (
                "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
                Reason::Unschedulable,
            ),
            (
                "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.",
                Reason::Unschedulable,
            ),
            (
                "0/2 nodes are available: persistentvolumeclaim \"absent\" not found. not found",
                Reason::VolumeMountFailed,
            ),
            (
                "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found",
                Reason::VolumeMountFailed,
            ),
        ] {
            assert_eq!(of_scheduling(text), reason, "{text}");
        }
    }

    #[test]
    fn containers_that_wait() {
        for (reason, message, expected) in [
            ("ErrImagePull", "failed to pull", Some(Reason::ImagePullFailed)),
            ("ImagePullBackOff", "Back-off pulling image", Some(Reason::ImagePullFailed)),
            ("InvalidImageName", "couldn't parse image name", Some(Reason::ImagePullFailed)),
            (
                "CreateContainerConfigError",
                "secret \"absent\" not found",
                Some(Reason::SecretNotFound),
            ),
            (
                "CreateContainerConfigError",
                "container has runAsNonRoot and image will run as root",
                Some(Reason::ContainerStartFailed),
            ),
            ("ContainerCreating", "", None),
            ("PodInitializing", "", None),
        ] {
            assert_eq!(of_waiting(reason, message), expected, "{reason} {message}");
        }
    }

    #[test]
    fn each_reason_of_this_file_has_its_own_next_step() {
        for reason in (10..=20).filter_map(Reason::from_exit_code) {
            assert_ne!(next_step(reason), "see the documentation of the reason", "{reason}");
        }
    }
}
