//! Sees that the AppArmor profile of a container is there before the runtime needs it.

use super::spec::{Profile, Security};
use super::{ContainerError, Parts};

/// Loads our profile if the container gets it, or looks for the one that it names.
///
/// On a host without AppArmor there is nothing to see to: whether the request can be served then,
/// the configuration decides.
pub async fn confine(parts: &Parts, security: &Security) -> Result<(), ContainerError> {
    let apparmor = &parts.apparmor;
    if !apparmor.is_enabled() {
        return Ok(());
    }
    let refuse = |problem: String| ContainerError::Request {
        field: "config.linux.security_context.apparmor".to_owned(),
        problem,
    };
    match &security.apparmor {
        Profile::Localhost(name) => match apparmor.is_loaded(name).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(refuse(format!("profile {name:?} is not loaded"))),
            Err(source) => Err(ContainerError::Apparmor(source)),
        },
        Profile::Unset | Profile::RuntimeDefault if !security.privileged => {
            apparmor.ensure_default().await.map_err(ContainerError::Apparmor)
        }
        Profile::Unset | Profile::RuntimeDefault | Profile::Unconfined => Ok(()),
    }
}
