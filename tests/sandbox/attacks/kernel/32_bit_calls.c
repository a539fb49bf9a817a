#include <stdio.h>
int main(){int r;asm volatile("int $0x80":"=a"(r):"a"(20));printf("%d",r);}
