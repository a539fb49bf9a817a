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
