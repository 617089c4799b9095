package plane

import (
	"bytes"
	"context"
	"fmt"
	"math/rand"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/retry"
)

const objectsNamespace = "objects"

// testVersion ensures that kubectl and the apiserver are of one version, and so that the version was built in.
func testVersion(ctx context.Context, t *testing.T, r *run) {
	out := r.kubectl(ctx, t, "", "version")
	versions := map[string]string{}
	for line := range strings.Lines(out) {
		if name, version, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			versions[name] = version
		}
	}
	if v := versions["Server Version"]; v != versions["Client Version"] || !strings.HasPrefix(v, "v1.") {
		t.Errorf("kubectl version:\n%s", out)
	}
}

// testObjects creates, reads, changes, lists and deletes namespaces, config maps and secrets with kubectl and with client-go.
func testObjects(ctx context.Context, t *testing.T, r *run) {
	r.kubectl(ctx, t, "", "create", "namespace", objectsNamespace)
	ns := "--namespace=" + objectsNamespace
	r.kubectl(ctx, t, "", "create", "configmap", "colours", ns, "--from-literal=sky=blue", "--from-literal=grass=green")
	r.kubectl(ctx, t, "", "create", "secret", "generic", "password", ns, "--from-literal=password=s3cret")
	if _, err := r.Kubectl(ctx, "", "create", "configmap", "colours", ns); err == nil || !strings.Contains(err.Error(), "already exists") {
		t.Errorf("creating an object twice: %v", err)
	}
	r.kubectl(ctx, t, "", "annotate", "configmap", "colours", ns, "seen=yes")
	r.kubectl(ctx, t, "", "patch", "configmap", "colours", ns, "--patch", `{"data":{"sky":"grey"}}`)

	colours, err := r.Client.CoreV1().ConfigMaps(objectsNamespace).Get(ctx, "colours", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if colours.Data["sky"] != "grey" || colours.Data["grass"] != "green" || colours.Annotations["seen"] != "yes" {
		t.Errorf("config map after annotate and patch: %v %v", colours.Annotations, colours.Data)
	}
	secrets := r.Client.CoreV1().Secrets(objectsNamespace)
	secret, err := secrets.Get(ctx, "password", metav1.GetOptions{})
	if err != nil || string(secret.Data["password"]) != "s3cret" {
		t.Errorf("secret: %q, %v", secret.Data["password"], err)
	}
	if got := r.kubectl(ctx, t, "", "get", "secrets,configmaps", ns, "--output=name"); got != "secret/password\nconfigmap/colours\nconfigmap/kube-root-ca.crt\n" {
		t.Errorf("kubectl get: %q", got)
	}
	r.kubectl(ctx, t, "", "delete", "secret", "password", ns)
	if _, err := secrets.Get(ctx, "password", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("secret after its deletion: %v", err)
	}
	// A name that was deleted is created anew, with a later resourceVersion and another uid.
	again, err := secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "password"}}, metav1.CreateOptions{})
	if err != nil || again.UID == secret.UID || !laterRevision(t, again, secret) {
		t.Errorf("secret created anew: %v, %v", again, err)
	}
}

// laterRevision reports whether a is of a later revision than b.
func laterRevision(t *testing.T, a, b metav1.Object) bool {
	t.Helper()
	return revisionOf(t, a.GetResourceVersion()) > revisionOf(t, b.GetResourceVersion())
}

func revisionOf(t *testing.T, resourceVersion string) (revision uint64) {
	t.Helper()
	if _, err := fmt.Sscan(resourceVersion, &revision); err != nil {
		t.Fatalf("resourceVersion %q: %v", resourceVersion, err)
	}
	return revision
}

// testLargeObject stores a secret of nearly 1 MiB, the largest that Kubernetes allows, changes it and reads it back.
func testLargeObject(ctx context.Context, t *testing.T, r *run) {
	secrets := r.Client.CoreV1().Secrets(objectsNamespace)
	data := make([]byte, 1_000_000)
	fill := rand.New(rand.NewSource(1))
	_, _ = fill.Read(data) // never fails
	made, err := secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "large"}, Data: map[string][]byte{"data": data}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_, _ = fill.Read(data)
		made.Data["data"] = data
		if made, err = secrets.Update(ctx, made, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := secrets.Get(ctx, "large", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Data["data"], data) || got.ResourceVersion != made.ResourceVersion {
		t.Errorf("the large secret came back changed: %d bytes at %s, stored %d at %s",
			len(got.Data["data"]), got.ResourceVersion, len(data), made.ResourceVersion)
	}
}

const widgetDefinition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.shim.test}
spec:
  group: shim.test
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties: {size: {type: integer, minimum: 1}}
          status:
            type: object
            properties: {ready: {type: boolean}}
`

var widgetResource = schema.GroupVersionResource{Group: "shim.test", Version: "v1", Resource: "widgets"}

// testCustomResources defines a resource and works with its instances.
func testCustomResources(ctx context.Context, t *testing.T, r *run) {
	const instances = 5
	r.kubectl(ctx, t, widgetDefinition, "apply", "--filename=-")
	r.kubectl(ctx, t, "", "wait", "--for=condition=Established", "--timeout=60s", "crd/widgets.shim.test")
	var manifest strings.Builder
	for i := range instances {
		fmt.Fprintf(&manifest, "---\napiVersion: shim.test/v1\nkind: Widget\nmetadata: {name: widget-%d, namespace: %s}\nspec: {size: %d}\n", i, objectsNamespace, i+1)
	}
	r.kubectl(ctx, t, manifest.String(), "apply", "--filename=-")

	widgets := r.Dynamic.Resource(widgetResource).Namespace(objectsNamespace)
	list, err := widgets.List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != instances {
		t.Fatalf("%d widgets, want %d", len(list.Items), instances)
	}
	widget := &list.Items[2]
	if size, _, err := unstructured.NestedInt64(widget.Object, "spec", "size"); err != nil || size != 3 {
		t.Errorf("size of %s: %d, %v", widget.GetName(), size, err)
	}
	if err := unstructured.SetNestedField(widget.Object, true, "status", "ready"); err != nil {
		t.Fatal(err)
	}
	if _, err := widgets.UpdateStatus(ctx, widget, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if out := r.kubectl(ctx, t, "", "get", "widgets", "--namespace="+objectsNamespace, `--output=jsonpath={.items[*].status.ready}`); out != "true" {
		t.Errorf("status of the widgets: %q", out)
	}
	invalid := []byte(`{"spec":{"size":0}}`)
	if _, err := widgets.Patch(ctx, "widget-0", types.MergePatchType, invalid, metav1.PatchOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a widget against its schema: %v", err)
	}
	r.kubectl(ctx, t, "", "delete", "widget", "widget-4", "--namespace="+objectsNamespace)
	if _, err := widgets.Get(ctx, "widget-4", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("widget after its deletion: %v", err)
	}
}

// testConflicts ensures that an update based on an old resourceVersion fails, and that of many concurrent counters no step is lost.
func testConflicts(ctx context.Context, t *testing.T, r *run) {
	const clients, increments = 8, 10
	maps := r.Client.CoreV1().ConfigMaps(objectsNamespace)
	first, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "counter"}, Data: map[string]string{"n": "0"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	stale := first.DeepCopy()
	first.Data["by"] = "first"
	if _, err := maps.Update(ctx, first, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	stale.Data["by"] = "second"
	if _, err := maps.Update(ctx, stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("update on an old resourceVersion: %v", err)
	}
	old := stale.ResourceVersion
	err = maps.Delete(ctx, "counter", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &old}})
	if !apierrors.IsConflict(err) {
		t.Errorf("delete on an old resourceVersion: %v", err)
	}
	// In each round at least one of the clients wins, so that the others need no long pauses.
	backoff := wait.Backoff{Duration: 10 * time.Millisecond, Factor: 1, Jitter: 1, Steps: 10 * clients * increments}
	var all sync.WaitGroup
	for range clients {
		all.Add(1)
		go func() {
			defer all.Done()
			for range increments {
				err := retry.RetryOnConflict(backoff, func() error {
					m, err := maps.Get(ctx, "counter", metav1.GetOptions{})
					if err != nil {
						return err
					}
					var n int
					if _, err := fmt.Sscan(m.Data["n"], &n); err != nil {
						return err
					}
					m.Data["n"] = fmt.Sprint(n + 1)
					_, err = maps.Update(ctx, m, metav1.UpdateOptions{})
					return err
				})
				if err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	all.Wait()
	last, err := maps.Get(ctx, "counter", metav1.GetOptions{})
	if err != nil || last.Data["n"] != fmt.Sprint(clients*increments) || last.Data["by"] != "first" {
		t.Errorf("the counter: %v, %v; want %d", last.Data, err, clients*increments)
	}
}

// testServerSideApply has two managers own fields of one object.
func testServerSideApply(ctx context.Context, t *testing.T, r *run) {
	apply := func(manager, data string, more ...string) error {
		manifest := fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shared, namespace: %s}\ndata: %s\n", objectsNamespace, data)
		_, err := r.Kubectl(ctx, manifest, append([]string{"apply", "--server-side", "--field-manager=" + manager, "--filename=-"}, more...)...)
		return err
	}
	for _, s := range []struct {
		manager, data string
		more          []string
		conflict      bool
	}{
		{manager: "one", data: `{a: "1", b: "1"}`},
		{manager: "two", data: `{c: "2"}`},
		{manager: "two", data: `{b: "2", c: "2"}`, conflict: true},
		{manager: "two", data: `{b: "2", c: "2"}`, more: []string{"--force-conflicts"}},
		{manager: "one", data: `{a: "1"}`}, // gives up nothing but what it still owns
		{manager: "two", data: `{b: "2"}`}, // removes c, which nobody else owns
	} {
		err := apply(s.manager, s.data, s.more...)
		if s.conflict && (err == nil || !strings.Contains(err.Error(), "conflict")) {
			t.Errorf("apply of %s by %s: %v, want a conflict", s.data, s.manager, err)
		}
		if !s.conflict && err != nil {
			t.Fatal(err)
		}
	}
	got, err := r.Client.CoreV1().ConfigMaps(objectsNamespace).Get(ctx, "shared", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	managers := map[string]bool{}
	for _, m := range got.ManagedFields {
		managers[m.Manager] = true
	}
	if len(got.Data) != 2 || got.Data["a"] != "1" || got.Data["b"] != "2" || !managers["one"] || !managers["two"] {
		t.Errorf("after apply: data %v, managers %v", got.Data, managers)
	}
}

// testFinalizers ensures that a deleted object with a finalizer stays, marked, until the finalizer is taken away.
func testFinalizers(ctx context.Context, t *testing.T, r *run) {
	const finalizer = "shim.test/hold"
	maps := r.Client.CoreV1().ConfigMaps(objectsNamespace)
	made, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{finalizer}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r.kubectl(ctx, t, "", "delete", "configmap", "held", "--namespace="+objectsNamespace, "--wait=false")
	held, err := maps.Get(ctx, "held", metav1.GetOptions{})
	if err != nil {
		t.Fatalf("a deleted object with a finalizer: %v", err)
	}
	if held.DeletionTimestamp == nil || !laterRevision(t, held, made) {
		t.Errorf("deletion timestamp %v at resourceVersion %s, created at %s", held.DeletionTimestamp, held.ResourceVersion, made.ResourceVersion)
	}
	waiting := r.KubectlCommand(ctx, "wait", "--for=delete", "--timeout=60s", "configmap/held", "--namespace="+objectsNamespace)
	if err := waiting.Start(); err != nil {
		t.Fatal(err)
	}
	r.kubectl(ctx, t, "", "patch", "configmap", "held", "--namespace="+objectsNamespace, "--type=merge", "--patch", `{"metadata":{"finalizers":null}}`)
	if err := waiting.Wait(); err != nil {
		t.Errorf("kubectl wait --for=delete: %v", err)
	}
	if _, err := maps.Get(ctx, "held", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("without its finalizer: %v", err)
	}
}
