"""Real problems with submissions: right ones by different ways, wrong, slow and non-deterministic ones."""

from typing import Any

STATEMENT = """You are given n integers (1 <= n <= 200, each from -100 to 100). Print the largest sum of a non-empty
contiguous part. Input: n, then the n integers."""

READ = "n = int(input()); a = list(map(int, input().split()))\n"
KADANE = (
    READ + "best = here = a[0]\nfor x in a[1:]:\n    here = max(x, here + x); best = max(best, here)\nprint(best)\n"
)
PREFIXES = (
    READ + "low = total = 0; best = -10**9\nfor x in a:\n"
    "    total += x; best = max(best, total - low); low = min(low, total)\nprint(best)\n"
)
PAIRS = READ + (
    "p = [0]\nfor x in a: p.append(p[-1] + x)\nprint(max(p[j] - p[i] for i in range(n) for j in range(i + 1, n + 1)))\n"
)
HALVES = READ + (
    "def solve(l, r):\n"
    "    if r - l == 1: return a[l]\n"
    "    m = (l + r) // 2\n"
    "    left = max(sum(a[i:m]) for i in range(l, m)); right = max(sum(a[m:i]) for i in range(m + 1, r + 1))\n"
    "    return max(solve(l, m), solve(m, r), left + right)\n"
    "print(solve(0, n))\n"
)
IN_C = """#include <stdio.h>
int main(){int n,x,best=-1000000,here=0;scanf("%d",&n);
for(int i=0;i<n;i++){scanf("%d",&x);here=(here>0?here:0)+x;if(here>best)best=here;}printf("%d\\n",best);}
"""
IN_BASH = (
    "read n; read -a a; b=-999999; h=0\n"
    "for x in ${a[@]}; do ((h = (h > 0 ? h : 0) + x, b = h > b ? h : b)); done; echo $b\n"
)
EMPTY_ALLOWED = (
    READ + "best = here = 0\nfor x in a:\n    here = max(0, here + x); best = max(best, here)\nprint(best)\n"
)
"""Wrong where all numbers are negative."""
SLOW = READ + "print(max(sum(a[i:j]) for i in range(n) for j in range(i + 1, n + 1) for _ in range(300)))\n"
"""Right, but over the time limit from some size on."""
RANDOM = KADANE.replace("print(best)", "import random; print(best + random.randint(1, 10**9))")

GENERATOR = """
from cyaron import *
case, total = map(int, input().split())
n = 1 if case == 1 else 200 * case // total
low, high = (-100, -1) if case % 5 == 0 else (-100, 100)
print(n)
print(*[v[0] for v in Vector.random(n, [(low, high)], 1)])
"""


def python(*sources: str) -> list[dict[str, str]]:
    return [{"language": "python", "source": source} for source in sources]


RIGHT = [
    *python(KADANE, PREFIXES, PAIRS, HALVES, KADANE + "# 2\n", PREFIXES + "# 2\n", HALVES + "# 2\n"),
    {"language": "c", "source": IN_C},
    {"language": "bash", "source": IN_BASH},
]
"""Nine."""


def problem(name: str, *others: str, num_right: int, **changes: Any) -> dict[str, Any]:
    """`num_right` right submissions and `others`."""
    return {
        "id": name,
        "statement": STATEMENT,
        "submissions": RIGHT[-num_right:] + python(*others),
        "generator": GENERATOR,
        "limits": {"cpu_seconds": 0.5, "wall_seconds": 20.0},
        **changes,
    }


TREE_STATEMENT = """You are given a tree with n vertices (2 <= n <= 120) and weighted edges. Print the length of its
longest path. Input: n, then n - 1 lines u v w with an edge between u and v of weight w (1 <= w <= 100)."""

READ_TREE = """n = int(input())
near = [[] for _ in range(n + 1)]
for _ in range(n - 1):
    u, v, w = map(int, input().split())
    near[u].append((v, w)); near[v].append((u, w))
"""
TWO_SEARCHES = (
    READ_TREE
    + """
def farthest(start):
    far = {start: 0}; stack = [start]
    for u in stack:
        for v, w in near[u]:
            if v not in far: far[v] = far[u] + w; stack.append(v)
    return max((d, u) for u, d in far.items())
print(farthest(farthest(1)[1])[0])
"""
)
HEIGHTS = (
    READ_TREE
    + """
import sys
sys.setrecursionlimit(10**5)
best = 0
def height(u, parent):
    global best
    top = 0
    for v, w in near[u]:
        if v != parent:
            h = height(v, u) + w; best = max(best, top + h); top = max(top, h)
    return top
height(1, 0)
print(best)
"""
)
ALL_PAIRS_IN_C = """#include <stdio.h>
int d[121][121];
int main(){int n,u,v,w,best=0;scanf("%d",&n);
for(int i=1;i<=n;i++)for(int j=1;j<=n;j++)d[i][j]=i==j?0:1000000;
for(int i=1;i<n;i++){scanf("%d %d %d",&u,&v,&w);d[u][v]=d[v][u]=w;}
for(int k=1;k<=n;k++)for(int i=1;i<=n;i++)for(int j=1;j<=n;j++)if(d[i][k]+d[k][j]<d[i][j])d[i][j]=d[i][k]+d[k][j];
for(int i=1;i<=n;i++)for(int j=1;j<=n;j++)if(d[i][j]>best)best=d[i][j];printf("%d\\n",best);}
"""
FROM_THE_ROOT_ONLY = TWO_SEARCHES.replace("farthest(farthest(1)[1])", "farthest(1)")
"""Wrong: the longest path need not start at vertex 1."""

TREE_GENERATOR = """
from cyaron import *
case, total = map(int, input().split())
n = max(2, 120 * case // total)
print(n)
print(Graph.chain(n, weight_limit=100) if case % 4 == 1 else Graph.tree(n, weight_limit=100))
"""
TREE_PROBLEM = {
    "id": "tree",
    "statement": TREE_STATEMENT,
    "submissions": [
        *python(*[TWO_SEARCHES + f"# {i}\n" for i in range(4)], *[HEIGHTS + f"# {i}\n" for i in range(4)]),
        {"language": "c", "source": ALL_PAIRS_IN_C},
        *python(FROM_THE_ROOT_ONLY),
    ],
    "generator": TREE_GENERATOR,
    "limits": {"cpu_seconds": 0.5, "wall_seconds": 20.0},
}
