package plane

import (
	"context"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
)

const (
	eventsNamespace = "events"
	eventCount      = 30
	expiryGrace     = 60 * time.Second // after its time; the server may have been killed in between, which gives leases a new life

	rollOutNamespace = "rollout"
	nodeCount        = 100
	podCount         = 500
)

// killAt are the numbers of running pods at which the server is killed.
var killAt = []int{150, 350}

// expiry is the wait for one event to vanish.
type expiry struct {
	name string
	made time.Time
	gone chan error // receives nil, or why the waiting ended without it
	took time.Duration
}

// testEvents makes events, which live under a lease and are never cached by kube-apiserver, pages through them, and begins to wait for their end.
func testEvents(ctx context.Context, t *testing.T, r *run) {
	r.createNamespace(ctx, t, eventsNamespace)
	events := r.Client.CoreV1().Events(eventsNamespace)
	create := func(name string) {
		event := &corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{Name: name},
			InvolvedObject: corev1.ObjectReference{Kind: "Namespace", Name: eventsNamespace, Namespace: eventsNamespace},
			Reason:         "Test",
		}
		if _, err := events.Create(ctx, event, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	var want []string
	for i := range eventCount {
		name := fmt.Sprintf("event-%02d", i)
		made := time.Now() // before its lease begins
		create(name)
		want = append(want, name)
		if i%10 == 0 {
			r.awaitExpiry(name, made)
		}
	}
	list := func(options metav1.ListOptions) (metav1.ListInterface, []string, error) {
		l, err := events.List(ctx, options)
		var names []string
		for _, e := range l.Items {
			names = append(names, e.Name)
		}
		return l, names, err
	}
	checkPages(t, list, 7, want, func() { create("event-later") })
}

// awaitExpiry begins to read the event until it is gone, whatever happens to the server meanwhile.
func (r *run) awaitExpiry(name string, made time.Time) {
	e := &expiry{name: name, made: made, gone: make(chan error, 1)}
	r.expiries = append(r.expiries, e)
	go func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			_, err := r.Client.CoreV1().Events(eventsNamespace).Get(r.ctx, name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				e.took = time.Since(made)
				e.gone <- nil
				return
			}
			select {
			case <-r.ctx.Done():
				e.gone <- r.ctx.Err()
				return
			case <-tick.C:
			}
		}
	}()
}

// testEventsExpire ensures that no event went before its time, and that all go.
func testEventsExpire(ctx context.Context, t *testing.T, r *run) {
	for _, e := range r.expiries {
		select {
		case <-ctx.Done():
			t.Fatalf("%s is still there %v after it was made (TTL %v)", e.name, time.Since(e.made), eventTTL)
		case err := <-e.gone:
			if err != nil {
				t.Fatalf("%s: %v", e.name, err)
			}
			if e.took < eventTTL || e.took > eventTTL+expiryGrace {
				t.Errorf("%s was gone %v after it was made, its TTL is %v", e.name, e.took, eventTTL)
			}
			t.Logf("%s was gone after %.1f s", e.name, e.took.Seconds())
		}
	}
	until(ctx, t, "the rest of the events", func() (bool, error) {
		list, err := r.Client.CoreV1().Events(eventsNamespace).List(ctx, metav1.ListOptions{})
		return err == nil && len(list.Items) == 0, err
	})
}

// testRollOut brings podCount pods to nodeCount nodes, and kills the server in the middle of it, twice. The control plane has to go on by itself.
func testRollOut(ctx context.Context, t *testing.T, r *run) {
	r.createNamespace(ctx, t, rollOutNamespace)
	r.createNodes(ctx, t)
	// Pods are refused until the controller manager has made this.
	until(ctx, t, "service account", func() (bool, error) {
		_, err := r.Client.CoreV1().ServiceAccounts(rollOutNamespace).Get(ctx, "default", metav1.GetOptions{})
		return err == nil, nil
	})
	deployments := r.Client.AppsV1().Deployments(rollOutNamespace)
	if _, err := deployments.Create(ctx, newDeployment(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	for i, at := range killAt {
		running := r.awaitRunning(ctx, t, at)
		if running >= podCount {
			t.Errorf("all %d pods were running before kill %d: it was not in the middle", running, i+1)
		}
		name := fmt.Sprintf("event-kill-%d", i)
		made := time.Now()
		event := &corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{Name: name},
			InvolvedObject: corev1.ObjectReference{Kind: "Namespace", Name: eventsNamespace, Namespace: eventsNamespace},
		}
		if _, err := r.Client.CoreV1().Events(eventsNamespace).Create(ctx, event, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		killed := time.Now()
		if err := r.KillServer(ctx); err != nil {
			t.Fatal(err)
		}
		r.kills++
		t.Logf("%5.1f s: %d pods running, server killed; ready again after %.1f s", killed.Sub(begun).Seconds(), running, time.Since(killed).Seconds())
		r.awaitExpiry(name, made)
	}
	until(ctx, t, "kube-apiserver ready after the kill", func() (bool, error) { return r.Ready(ctx) == nil, nil })
	if err := r.RestartKwok(ctx); err != nil { // it stands for the nodes, not for the control plane
		t.Fatal(err)
	}
	r.awaitRunning(ctx, t, podCount)
	t.Logf("%5.1f s: %d pods running", time.Since(begun).Seconds(), podCount)
	until(ctx, t, "deployment available", func() (bool, error) {
		d, err := deployments.Get(ctx, "web", metav1.GetOptions{})
		return err == nil && d.Status.AvailableReplicas == podCount, err
	})
	r.kubectl(ctx, t, "", "rollout", "status", "deployment/web", "--namespace="+rollOutNamespace, "--timeout=60s")
}

// createNodes makes plain nodes, which kwok takes over, and waits until all are ready.
func (r *run) createNodes(ctx context.Context, t *testing.T) {
	t.Helper()
	for i := range nodeCount {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node-%03d", i), Labels: map[string]string{"type": "kwok"}}}
		if _, err := r.Client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	nodes := cache.NewListWatchFromClient(r.Client.CoreV1().RESTClient(), "nodes", metav1.NamespaceAll, fields.Everything())
	awaitCount(ctx, t, nodes, &corev1.Node{}, nodeCount, func(object any) bool {
		for _, c := range object.(*corev1.Node).Status.Conditions {
			if c.Type == corev1.NodeReady {
				return c.Status == corev1.ConditionTrue
			}
		}
		return false
	})
}

// awaitRunning waits until want pods run and returns how many do.
func (r *run) awaitRunning(ctx context.Context, t *testing.T, want int) int {
	t.Helper()
	pods := cache.NewListWatchFromClient(r.Client.CoreV1().RESTClient(), "pods", rollOutNamespace, fields.Everything())
	return awaitCount(ctx, t, pods, &corev1.Pod{}, want, func(object any) bool {
		return object.(*corev1.Pod).Status.Phase == corev1.PodRunning
	})
}

// watched is an object of the API.
type watched interface {
	metav1.Object
	runtime.Object
}

// awaitCount watches until at least want objects are good, and returns how many are. It lives through failures of the apiserver as any
// controller does, by listing and watching again.
func awaitCount[T watched](ctx context.Context, t *testing.T, lw cache.ListerWatcher, kind T, want int, good func(any) bool) int {
	t.Helper()
	are := map[string]bool{}
	_, err := watchtools.UntilWithSync(ctx, lw, kind, nil, func(event watch.Event) (bool, error) {
		object, ok := event.Object.(T)
		if !ok {
			return false, fmt.Errorf("event of a %T", event.Object)
		}
		if event.Type != watch.Deleted && good(object) {
			are[object.GetName()] = true
		} else {
			delete(are, object.GetName())
		}
		return len(are) >= want, nil
	})
	if err != nil {
		t.Fatalf("%d of %d: %v", len(are), want, err)
	}
	return len(are)
}

func newDeployment() *appsv1.Deployment {
	labels := map[string]string{"app": "web"}
	replicas := int32(podCount)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					Containers:  []corev1.Container{{Name: "web", Image: "fake"}},
					Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
				},
			},
		},
	}
}

// testNamespacesEnd deletes the namespaces with all that is in them, hundreds of pods among it.
func testNamespacesEnd(ctx context.Context, t *testing.T, r *run) {
	r.kubectl(ctx, t, "", "delete", "namespace", rollOutNamespace, objectsNamespace, "--wait=true", "--timeout=170s")
	pods, err := r.Client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil || len(pods.Items) != 0 {
		t.Errorf("%d pods are left, %v", len(pods.Items), err)
	}
}

// testNothingLost kills the server once more, under the writer's load, and compares what is there with what was acknowledged, and with what
// the observer saw.
func testNothingLost(ctx context.Context, t *testing.T, r *run) {
	if err := r.KillServer(ctx); err != nil {
		t.Fatal(err)
	}
	r.kills++
	r.writer.Stop()
	until(ctx, t, "kube-apiserver ready after the kill", func() (bool, error) { return r.Ready(ctx) == nil, nil })
	maps := r.Client.CoreV1().ConfigMaps(writerNamespace)
	list, err := maps.List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.writer.Check(list.Items); err != nil {
		t.Errorf("the list: %v", err)
	}
	// A list may come from the apiserver's cache; a get never does.
	var gotten []corev1.ConfigMap
	for _, m := range list.Items {
		got, err := maps.Get(ctx, m.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		gotten = append(gotten, *got)
	}
	if err := r.writer.Check(gotten); err != nil {
		t.Errorf("one by one: %v", err)
	}
	acks, unknown := r.writer.Acknowledged()
	gaps, err := r.observer.Check(ctx, acks)
	if err != nil {
		t.Errorf("the watch: %v", err)
	}
	if gaps > r.kills {
		t.Errorf("the watch had to begin anew %d times, the server was killed %d times", gaps, r.kills)
	}
	if len(acks) < 1000 {
		t.Errorf("only %d writes were acknowledged: the test did not write all the time", len(acks))
	}
	t.Logf("%d acknowledged writes, %d of unknown outcome, %d kills; nothing is missing; the watch began anew %d times", len(acks), unknown, r.kills, gaps)
}
