"""Plots whose hero is an animal."""

from minigpt.data.storybook.engine import Plot

PLOTS = {
    "the light in the dark": Plot(
        "hero: petname",
        """
        <once animal> <animal trait> <animal place> [One evening|One night|One dark evening], {he} was [on the way home
        |far from home|out too late] and could not find the path. [The moon was behind the clouds|There was no moon|It
        was as dark as a cave]. <scared> "[Hello|Is anyone there|Can somebody help me]?" {he} called. [Only the wind
        answered.|Nobody answered.|There was no answer.]

        Then {he} saw a [small|tiny|weak] light [in the grass|under a leaf|on a stone]. It was a firefly, and it was
        [crying|stuck in a spider web|caught in a bottle]. "[Please help me|I cannot get out|I want to fly]," it said
        in a [thin|soft|small] voice. {hero} [was afraid, but {he} came closer|forgot {his} own fear|did not think
        twice]. [Very carefully|Without a sound|Slowly and softly], {he} set the firefly free.

        "[How can I thank you?|You are so kind!|Now I can shine again!]" said the firefly. "[Where do you live|Where do
        you want to go|Why are you out so late]?" "I [am lost|do not know the way]," said {hero}. "[Then follow me|I
        can show you|Come with me]!" said the firefly, and it [flew ahead like a little lamp|called {number} friends,
        and they made the path bright|lit the way]. {hero} {animal.went} after it, [past the pond|over the bridge
        |through the trees], until {he} saw {his} {animal.home}. [From then on, the firefly came every evening.|They
        said good night.|The firefly stayed for a cup of {drink}.] [<help lesson>|<brave lesson>|<dark lesson>|<animal
        night>]
        """,
    ),
    "food for the winter": Plot(
        "hero: petname",
        """
        <once animal> <animal trait> <animal place> It was fall, and the leaves were [red|golden|falling]. All [the
        animals|the others] were [busy|at work]. They [gathered|looked for] food for the winter. "[Come and help|You
        should get ready|Winter is coming], {hero}," said {a bird}. But {hero} [only wanted to play|rolled in the
        leaves|slept in the sun|danced in the wind]. "[Tomorrow|Later|There is time]," {he} said.

        Then the snow came. [Everything was white|The pond was ice|The wind was cold], and {hero} was hungry. There
        were no {animal.food} [anywhere|left|under the snow]. <sad> {He} [knocked at a door|went from door to door
        |{animal.went} through the snow] until {he} came to the home of an old {elder}. "[I have nothing to eat|I did
        not get ready|I only played]," {he} said. "[I am sorry|I was foolish|You were right]."

        The {elder} [looked at {him} for a long time|was quiet|smiled] and opened the door. "[Come in and warm your
        feet|There is enough for two|Nobody should be hungry]," said the {elder} <kindly>. "[But in spring you must
        help me|Next year we will work together]." {hero} [ate|had] a cup of {drink7} and [warm bread|soup with
        mushrooms]. When spring came, {he} [kept {his} word|did not forget], and when the next winter came, {his}
        {animal.home} was full[ of {animal.food}|]. [<help lesson>|<wait lesson>|<animal night>]
        """,
    ),
    "the bird with the hurt wing": Plot(
        "hero: petname",
        """
        <once animal> <animal trait> <animal place> <one day>, {hero} heard [a soft cry|a sad little song|someone call
        for help]. [Under a bush|Behind a stone|In the tall grass] sat {a bird}. "[I fell out of a tree|The storm blew
        me down|I flew into a branch]," it said. "My wing hurts, and I cannot fly. [My friends went south without me
        |The nights are cold|I do not know what to do]." <sad>

        "[Come with me|Do not be afraid|You can stay with me]," said {hero}. {He} made a bed of [moss|feathers|dry
        leaves] in the {animal.home} and put a [cool|soft|clean] leaf on the wing. Every day {he} brought [berries
        |seeds|fresh water] and told the {bird} [a story|a riddle|what {he} had seen]. "You sing for me, and I [cook
        |gather food|look after you]," said {hero}. But the wing [healed slowly|was slow to heal|hurt for a long time].
        "[I will never fly again!|What good is a bird that cannot fly?]" said the {bird}. "[Wait and see|Just rest|A
        little more each day]," said {hero}.

        <one day>, the {bird} [hopped on a stone|stood at the door|looked up at the sky]. It [opened its wings|took a
        deep breath], and up it flew, [over the bushes|higher than the trees|once around the big oak]! {hero} [cheered
        |laughed and waved|was <glad>], but {he} was a bit sad, too. "[Will you come back|Must you go]?" {he} <asked>.
        "[In spring, I will|I will see you every year|Friends always come back]," said the {bird}. And [when the first
        flowers came|the next spring], {hero} heard [that song|a song {he} knew|a tap at the door]. [<help lesson>|They
        [sang|danced|ate {animal.food}] until the stars came out.|There was the {bird}, and it had brought {a
        treasure}.]
        """,
    ),
    "the race to the oak": Plot(
        "hero: petname, friend: petname",
        """
        <once animal> <animal trait> <animal place> {He} had a friend named {friend}, {a animal2}. [Every year|Each
        summer], the animals had a race to the [old|big|tall] oak. "[I will win|I am faster than the wind|Nobody can
        beat me]!" <called> {friend}. "[I just want to run|I will do my best|I am not so fast]," said {hero}. [The
        {elder} was the judge|An old {elder} held the flag] and called, "[Ready, set, go|One, two, three, go]!"

        {friend} ran ahead, [past the pond|over the hill|over the bridge]. {hero} [was slow|was last|fell behind], but
        {he} did not stop. Then {he} saw a little {bug} [on its back in the sand|in a deep hole|in a puddle]. "[Help
        |Please help me|I cannot get out]!" it [cried|called]. "[If I stop, I will lose|There goes the race|The others
        are far ahead]," thought {hero}. But {he} stopped and [gave it a leaf to climb on|helped it up|set it on a
        flower]. "[Thank you|You are kind]!" said the {bug}. "[Take the path through the hollow tree|There is a short
        way behind the rocks|Go along the stream, it is shorter]!"

        {friend} [lay in the grass and slept|had stopped to eat {animal2.food}|was showing off to some birds], for
        {friend.he} [thought the race was already won|was so sure to win]. {hero} [came out of the bushes|ran by on
        quiet feet|ran on and on] and [touched the oak first|was the first at the oak|reached the oak]. [Everybody
        cheered|The birds sang|All the animals clapped]! {friend} came [late|out of breath] and [was cross at first
        |could not believe it|laughed]. "[Well done|You won|You ran well], {hero}," {friend.he} said. The prize was {a
        treat}, and {hero} [cut it in two|gave half of it to {friend}|shared it with the {bug} and with {friend}].
        [<help lesson>|<animal night>|<together friend>]
        """,
    ),
    "the bridge": Plot(
        "hero: petname, friend: petname",
        """
        <once animal> <animal trait> <animal place> There was a [narrow|small|thin] bridge over the river, just wide
        enough for one. <one day>, {he} was in the middle of it [with a basket of {animal.food}|on the way to {his}
        grandma|with {a tool} on {his} back] when {friend} the {animal2} came from the other side. "[Go back|Let me
        pass|I was here first]!" <called> {friend}. "No, you go back! I [was first|am in a hurry|am bigger]," said
        {hero}.

        They [stood nose to nose|pushed a little|looked at each other with angry eyes]. [The sun went down|An hour went
        by|It began to rain], and nobody moved. Then the bridge [shook|creaked|cracked]. <scared> "[If we fight, we
        will both fall in|The water is deep and cold|I cannot swim]," said {friend} in a [small|shaky] voice. {hero}
        [looked down at the water|nodded|thought so, too].

        <idea> "[Lie down flat|Make yourself small|Stand very still], and I will [step|climb] over you," {he} said.
        "[Then we can both go on|So nobody must go back|Then we will both be dry]." {friend} [did so|held {friend.his}
        breath|made {friend.himself} as flat as a leaf], and {hero} climbed over [slowly|on soft feet|very carefully].
        "[That was easy|We can do that every day|How silly we were]!" <called> {friend}, and they both [laughed|had to
        laugh]. {hero} gave {friend} [some {animal.food}|{a fruit}|a friendly pat]. The next day they [built a wider
        bridge|put up a sign: "Be kind on the bridge"|met on the bridge again and danced]. [<together friend>|<learned>
        that [it is better to talk than to push|two can win when nobody fights|a kind word opens every road].]
        """,
    ),
    "the song nobody heard": Plot(
        "hero: petname",
        """
        <once animal> <animal trait> <animal place> {He} loved to sing, but only when {he} was alone, for {he} was very
        shy. {He} sang [to the flowers|in {his} {animal.home}|behind the waterfall]. If anybody came, {he} [stopped at
        once|hid {wildspot}|turned red]. "[They will laugh at me|My voice is too small|I might forget the words]," {he}
        thought.

        <one day>, a baby {animal2} was [lost|sick|afraid of the storm] and cried and cried. {A bird} showed it a
        feather, the {elder} told it a story, and {a bug} danced, but it would not stop. "[Who can help|What can we do
        |If only somebody could sing]?" said the {elder}. {hero}'s heart [beat fast|was pounding]. {He} wanted to [run
        home|hide], but the baby was so [sad|small].

        So {he} [shut {his} eyes|took a deep breath|stepped out] and began to sing, [very softly at first|first like a
        whisper]. [It was a song about the moon|It was a song about a warm nest|The song was like honey], and the baby
        [became quiet|listened|smiled] and [fell asleep|closed its eyes]. [All was still.|Nobody moved.|A leaf fell,
        and one could hear it.] Then all the animals [clapped softly|came closer to hear more|were full of joy]. "[Why
        did you never sing for us?|Please sing again tomorrow!|Where did you hide that voice?]" said the {elder}.
        {hero} [turned red, but {he} smiled|was <glad>]. From then on, {he} sang [every evening|under the big tree|when
        the moon was full]. [<brave lesson>|<help lesson>|<end>|<animal night>]
        """,
    ),
    "the sleepless night": Plot(
        "hero: petname",
        """
        <once animal> <animal trait> <animal place> [One night|One cold night|One winter night], {hero} could not
        sleep. {He} [turned left and right|lay on {his} back|counted {number} {animal2.plural}|closed one eye, and then
        the other]. It was [too quiet|too dark|too warm] in the {animal.home}, and {his} [bed was too hard|nose was
        cold|thoughts ran in circles]. "[I am so tired|I cannot sleep|I wish it were morning]," {he} [sighed|said].

        {He} went to {a bird} [in the old tree|on a branch]. "How do you sleep?" {he} asked. "[I put my head under my
        wing|I stand on one leg]," it said. {hero} tried it and [fell over|got a stiff neck|bumped {his} nose]. {He}
        went to {a bug}. "[I sleep in a flower|I roll up in a leaf|I sleep upside down]," it said. {hero} tried it, but
        [{he} was too big|the leaf was too small|it tickled, and {he} had to sneeze]. <sad>

        At last {he} came to the {elder}. "[What did you do today|Are you worried|Is something on your mind]?" the
        {elder} asked. {hero} [looked at {his} feet|thought for a while]. "I [was not kind to a friend|took {a fruit}
        that was not mine|said a bad word to {petname2}]," {he} said. "[Then tell your friend|Go and say you are sorry
        |Make it right in the morning], and [now drink this cup of {drink7}|now breathe in and out|let it go for
        tonight]," said the {elder} <kindly>. {hero} [felt light|felt better|smiled] and {animal.went} home. [{He} was
        asleep before {he} could count to {number2}|{He} slept until the sun was high|Soon {he} was fast asleep]. In
        the morning, {he} [made everything right|went to {petname2} to make peace]. [<truth lesson>|<learned> that [a
        light heart sleeps well|a kind word is the best pillow].|<end>]
        """,
    ),
    "the monster in the cave": Plot(
        "hero: petname, friend: petname",
        """
        <once animal> <animal trait> <animal place> In a cave {wild.at} lived a monster, all the animals said. "[It has
        a hundred teeth|It eats everything|It is as big as a hill]," said {a bird}. At night you could hear it: "[Hooo!
        Hooo|Rrrumm! Rrrumm|Boooo! Boooo]!" Nobody [dared|wanted] to go there, and {hero}'s friend {friend} the
        {animal2} [shook at the sound|had bad dreams of it|hid {wildspot}].

        <one day>, {hero}'s {colour2} ball rolled [down the hill|over the rocks|along the path] and into the cave.
        <scared> "[Leave it there|It is only a ball|Let us run]!" <called> {friend}. But {hero} [liked {his} ball
        |wanted to know the truth|was curious], and so {he} took a [lamp|stick|deep breath] and went in, [one step, and
        one more|slowly, slowly|with shaking knees]. It was [dark|cold and wet|very quiet]. "[Hello!|Good day!|Is
        somebody there?]" {he} [called|said]. "[HELLO|GOOD DAY|WHO IS THERE]!" said a big voice.

        There sat a very small [mole|bat|frog] with [a long tin pipe|a big horn|an old bucket in front of its mouth].
        "[Please do not hurt me|I was so alone|Nobody ever visits me]," it said. "I make [this noise|my big voice]
        because I am afraid [of the dark|of all of you|that a monster could come]." {hero} [laughed|had to smile|sat
        down next to it]. "[And we were afraid of you|There is no monster here|Then we are all afraid of nothing]!"
        {he} said. {friend} [came in, too|peeked in], and they [played ball|told jokes|had {treat.plural}] in the cave.
        [<brave lesson>|<dark lesson>|Now the animals go to the cave every {weekday} and make music.|Since then, nobody
        {wild.at} was afraid of the cave.]
        """,
    ),
    "the berry bush": Plot(
        "hero: petname, friend: petname",
        """
        <once animal> <animal trait> <animal place> Behind the {animal.home} grew a <big> bush full of [red|blue|black
        |sweet] berries. "This is my bush," said {hero}. {He} put up a [fence|sign|wall of stones]: "[Keep out|All mine
        |Do not touch]!" When {friend} the {animal2} asked for [a few|some|only {number}] berries, {hero} said, "[No
        |Never|Find your own bush]!" And {friend} {animal2.went} away with [a sad face|an empty basket|nothing to eat].

        {hero} ate and ate, but there were too many. The berries [fell to the ground|got old and brown|went bad], and
        [{his} tummy hurt|flies came|it began to smell]. [Nobody came to visit.|Nobody said hello anymore.|It was very
        quiet around the bush.] Then [there was no rain for weeks|the sun burned every day], and the bush [got dry|let
        its leaves hang|was very thirsty]. {hero} carried water [alone|in {a colour} bucket], but it was not enough.
        <sad>

        [One evening|One morning], {friend} came [with a <big> bucket|and brought {number2} friends with buckets].
        "[Nobody should lose a bush|A thirsty bush needs many hands|I saw that you were tired]," {friend.he} said.
        {hero} [felt bad|did not know what to say|was ashamed]. "I was [so mean to you|greedy], and still you help me.
        I am sorry," {he} said. They [carried|brought] water [all night|until the moon came up|from the river], and the
        bush [stood up again|was green again|was saved]. {hero} [took down the fence|made a new sign: "For everyone"
        |baked a <big> berry pie for all]. <share lesson> [<together friend>|<end>|<animal night>]
        """,
    ),
}
