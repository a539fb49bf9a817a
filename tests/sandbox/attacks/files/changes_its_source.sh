exec 2> /dev/null
echo 1 >> /box/main.sh && echo written
touch /box/new && echo made
mv /box/main.sh /tmp && echo moved
rm /box/main.sh && echo removed
chmod 777 /box && echo opened
exit 0
