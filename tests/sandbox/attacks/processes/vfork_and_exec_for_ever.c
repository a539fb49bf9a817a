#include <unistd.h>
int main(int c,char**v){for(;;)if(vfork()==0)execv("/box/main",v);}
