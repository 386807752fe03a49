//! The decoder of an agent's settings: not a fuzz target, because the module that reads them links Burn.

use std::path::Path;
use tessera_client::config::AgentConfig;

/// An agent's settings.
pub fn agent_config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match AgentConfig::from_toml(Path::new("site/agent.toml"), text) {
        Err(error) => assert!(error.to_string().len() <= 16 << 10),
        Ok(config) => {
            let written = toml::to_string(&config).unwrap_or_else(|e| panic!("{e}"));
            let again = AgentConfig::from_toml(Path::new(""), &written).unwrap_or_else(|e| panic!("not read again: {e}"));
            assert_eq!(toml::to_string(&again).ok(), Some(written));
        }
    }
}
