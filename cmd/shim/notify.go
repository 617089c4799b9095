package main

import (
	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
)

// notify tells the service manager of a change of state: daemon.SdNotifyReady,
// daemon.SdNotifyStopping. Without one (NOTIFY_SOCKET is not set) it does
// nothing. A manager that cannot be told is no reason to stop.
func notify(state string, log *zap.Logger) {
	sent, err := daemon.SdNotify(false, state)
	switch {
	case err != nil:
		log.Warn("failed to notify init daemon", zap.String("state", state), zap.Error(err))
	case sent:
		log.Info("successfully notified init daemon", zap.String("state", state))
	}
}
