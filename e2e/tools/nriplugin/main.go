// Program nriplugin is an NRI plugin made with NRI's own library, for the tests. It prints a JSON
// line per event and does as its flags say.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
)

var (
	socket    = flag.String("socket", "", "path of the runtime's socket; empty = the inherited one")
	name      = flag.String("name", "", "name to register with; empty = that of the environment")
	index     = flag.String("index", "", "index to register with")
	adjust    = flag.String("adjust", "", "directory to mount at /plugged; also sets PLUGGED and an annotation")
	hang      = flag.String("hang", "", "name of a pod whose RunPodSandbox is never answered")
	refuse    = flag.String("refuse", "", "name of a container whose CreateContainer is refused")
	shares    = flag.Uint64("shares", 0, "CPU shares that CreateContainer (with -adjust) and UpdateContainer ask for instead of the request's")
	syncDelay = flag.Duration("sync-delay", 0, "how long Synchronize takes")
	logFile   = flag.String("log", "", "file for the lines; empty = standard output")
)

type line struct {
	Event      string   `json:"event"`
	Pod        string   `json:"pod,omitempty"`
	Container  string   `json:"container,omitempty"`
	Name       string   `json:"name,omitempty"`
	State      string   `json:"state,omitempty"`
	Pods       []string `json:"pods,omitempty"`
	Containers []string `json:"containers,omitempty"`
	Config     string   `json:"config,omitempty"`
}

type plugin struct {
	mutex sync.Mutex
	out   *os.File
}

func (p *plugin) say(l line) {
	text, err := json.Marshal(l)
	if err != nil {
		panic(err)
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	fmt.Fprintf(p.out, "%s\n", text)
}

func (p *plugin) sayPod(event string, pod *api.PodSandbox) {
	p.say(line{Event: event, Pod: pod.GetId(), Name: pod.GetName()})
}

func (p *plugin) sayContainer(event string, pod *api.PodSandbox, container *api.Container) {
	p.say(line{
		Event: event, Pod: pod.GetId(), Container: container.GetId(), Name: container.GetName(),
		State: container.GetState().String(),
	})
}

func (p *plugin) Configure(_ context.Context, config, _, _ string) (api.EventMask, error) {
	p.say(line{Event: "Configure", Config: strings.TrimSpace(config)})
	return 0, nil
}

func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	l := line{Event: "Synchronize"}
	for _, pod := range pods {
		l.Pods = append(l.Pods, pod.GetId())
	}
	for _, container := range containers {
		l.Containers = append(l.Containers, container.GetId())
	}
	time.Sleep(*syncDelay)
	p.say(l)
	return nil, nil
}

func (p *plugin) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.sayPod("RunPodSandbox", pod)
	if *hang != "" && pod.GetName() == *hang {
		select {}
	}
	return nil
}

func (p *plugin) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.sayPod("StopPodSandbox", pod)
	return nil
}

func (p *plugin) RemovePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.sayPod("RemovePodSandbox", pod)
	return nil
}

func (p *plugin) CreateContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	p.sayContainer("CreateContainer", pod, container)
	if *refuse != "" && container.GetName() == *refuse {
		return nil, nil, fmt.Errorf("%s is not welcome", *refuse)
	}
	if *adjust == "" {
		return nil, nil, nil
	}
	a := &api.ContainerAdjustment{}
	a.AddEnv("PLUGGED", "in "+pod.GetName())
	a.AddAnnotation("nri.test/plugged", container.GetName())
	a.AddMount(&api.Mount{
		Destination: "/plugged", Type: "bind", Source: *adjust, Options: []string{"rbind", "ro"},
	})
	if *shares != 0 {
		a.SetLinuxCPUShares(*shares)
	}
	return a, nil, nil
}

func (p *plugin) PostCreateContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) error {
	p.sayContainer("PostCreateContainer", pod, container)
	return nil
}

func (p *plugin) StartContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) error {
	p.sayContainer("StartContainer", pod, container)
	return nil
}

func (p *plugin) PostStartContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) error {
	p.sayContainer("PostStartContainer", pod, container)
	return nil
}

func (p *plugin) UpdateContainer(_ context.Context, pod *api.PodSandbox, container *api.Container, _ *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	p.sayContainer("UpdateContainer", pod, container)
	if *shares == 0 {
		return nil, nil
	}
	update := &api.ContainerUpdate{}
	update.SetContainerId(container.GetId())
	update.SetLinuxCPUShares(*shares)
	return []*api.ContainerUpdate{update}, nil
}

func (p *plugin) PostUpdateContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) error {
	p.sayContainer("PostUpdateContainer", pod, container)
	return nil
}

func (p *plugin) StopContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) ([]*api.ContainerUpdate, error) {
	p.sayContainer("StopContainer", pod, container)
	return nil, nil
}

func (p *plugin) RemoveContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) error {
	p.sayContainer("RemoveContainer", pod, container)
	return nil
}

func main() {
	flag.Parse()
	p := &plugin{out: os.Stdout}
	if file := *logFile; file != "" {
		out, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		p.out = out
	}
	var options []stub.Option
	if *socket != "" {
		options = append(options, stub.WithSocketPath(*socket))
	}
	if *name != "" {
		options = append(options, stub.WithPluginName(*name))
	}
	if *index != "" {
		options = append(options, stub.WithPluginIdx(*index))
	}
	s, err := stub.New(p, options...)
	if err == nil {
		err = s.Run(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
