#pragma GCC plugin "x"
#include "|id"
int main(){}
