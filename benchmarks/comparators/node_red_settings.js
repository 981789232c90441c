// No editor, no log: only what a send needs.
module.exports = {
  flowFile: "flows.json",
  httpAdminRoot: false,
  uiHost: "127.0.0.1",
  uiPort: Number(process.env.NODE_RED_PORT),
  credentialSecret: false,
  logging: { console: { level: "off" } },
  telemetry: { enabled: false, updateNotification: false },
};
