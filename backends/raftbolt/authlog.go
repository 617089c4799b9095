package raftbolt

import (
	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends/raftbolt/internal/auth"
)

// tellAuthChange logs a change of users, roles or the use of them in etcd's words
// (server/auth/store.go), which those who audit such changes look for.
func (m *machine) tellAuthChange(c *auth.Change, now *auth.State) {
	user, role := zap.String("user-name", c.User), zap.String("role-name", c.Role)
	var message string
	var fields []zap.Field
	switch c.Kind {
	case auth.Enable:
		message = "enabled authentication"
	case auth.Disable:
		message = "disabled authentication"
	case auth.UserAdd:
		message, fields = "added a user", []zap.Field{user}
	case auth.UserDelete:
		message, fields = "deleted a user", []zap.Field{user}
	case auth.UserPassword:
		message, fields = "changed a password of a user", []zap.Field{user}
	case auth.UserGrant:
		message, fields = "granted a role to a user", []zap.Field{user, zap.String("added-role-name", c.Role)}
	case auth.UserRevoke:
		message, fields = "revoked a role from a user", []zap.Field{user, zap.String("revoked-role-name", c.Role)}
	case auth.RoleAdd:
		message, fields = "created a role", []zap.Field{role}
	case auth.RoleDelete:
		message, fields = "deleted a role", []zap.Field{role}
	case auth.RoleGrant:
		message, fields = "granted/updated a permission to a user", []zap.Field{role}
		if p := c.Permission; p != nil {
			fields = append(fields, zap.ByteString("key", p.Key), zap.ByteString("range-end", p.End))
		}
	case auth.RoleRevoke:
		message, fields = "revoked a permission on range", []zap.Field{role, zap.ByteString("key", c.Keys.Key), zap.ByteString("range-end", c.Keys.End)}
	}
	m.logger.Info(message, append(fields, zap.Bool("auth-enabled", now.Enabled()), zap.Uint64("auth-revision", now.Revision()))...)
}
