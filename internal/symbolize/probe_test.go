package symbolize
import ("testing";"time";"math/rand";"os/exec";"fmt";"strings";"os";"runtime")
func TestProbe(t *testing.T){
 K:=os.Getenv("KV")
 t0:=time.Now()
 s,err:=Open(K); if err!=nil{t.Fatal(err)}
 t.Log("open",time.Since(t0))
 zero:=uint64(0); s.offset=&zero
 rnd:=rand.New(rand.NewSource(1))
 var addrs []uint64
 for len(addrs)<3000 { y:=s.kernel.byAddr[rnd.Intn(len(s.kernel.byAddr))]; if !s.kernel.inCode(y.addr)||y.length==0{continue}; addrs=append(addrs,y.addr+uint64(rnd.Int63n(int64(y.length)))) }
 t0=time.Now()
 for _,a:=range addrs[:20]{ s.Addr(a,false) }
 t.Log("first 20",time.Since(t0))
 t0=time.Now(); clear(s.answers)
 for _,a:=range addrs[:20]{ s.Addr(a,false) }
 t.Log("again 20",time.Since(t0))
 t0=time.Now()
 for _,a:=range addrs[20:40]{ s.Addr(a,false) }
 t.Log("other 20",time.Since(t0))
 var m runtime.MemStats; runtime.ReadMemStats(&m); t.Log("heap MB",m.HeapAlloc>>20, "sys", m.Sys>>20)
 var in strings.Builder
 for _,a:=range addrs { fmt.Fprintf(&in,"%x\n",a) }
 run:=func(n int)string{ c:=exec.Command("addr2line","-afi","-e",K); c.Stdin=strings.NewReader(strings.Join(strings.SplitAfterN(in.String(),"\n",n+1)[:n],"")); b,err:=c.Output(); if err!=nil{t.Fatal(err)}; t.Log("addr2line maxrss MB",n, c.ProcessState.UserTime()); return string(b)}
 t0=time.Now(); run(20); t.Log("addr2line 20",time.Since(t0))
 t0=time.Now(); out:=run(len(addrs)); t.Log("addr2line 3000",time.Since(t0))
 t0=time.Now()
 bad:=0
 for i,blk:=range strings.Split(out,"0xffffffff")[1:] {
  ls:=strings.Split(strings.TrimSpace(blk),"\n")[1:]
  var want []string
  for j:=0;j+1<len(ls);j+=2 { f:=ls[j+1]; if k:=strings.Index(f," (disc");k>=0{f=f[:k]}; want=append(want,ls[j]+" "+f) }
  d,_:=s.debug.debugInfo()
  ps,err:=d.lookup(addrs[i])
  var got []string
  for _,p:=range ps { got=append(got,fmt.Sprintf("%s %s:%d",p.fn,p.file,p.line)) }
  if strings.Join(got,"|")!=strings.Join(want,"|") { bad++; if bad<30 { t.Logf("%x %v\n got %q\nwant %q",addrs[i],err,got,want) } }
 }
 t.Log("bad",bad,time.Since(t0))
}
