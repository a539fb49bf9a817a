int f(int n){volatile char x[4096];x[0]=n;return f(n+1)+x[0];}int main(){return f(0);}
