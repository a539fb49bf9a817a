int x[1u<<29]={1};int main(){}
