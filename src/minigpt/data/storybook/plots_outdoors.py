"""Plots that happen outdoors."""

from minigpt.data.storybook.engine import Plot

PLOTS = {
    "the kite in the tree": Plot(
        "hero: child, friend: child",
        """
        <once child> <trait> <place> <windy day>, {hero} took {his} {colour} kite to {outdoors}. [The wind was strong
        |The wind pulled at the string|The trees bent in the wind], and the kite [flew higher than the roofs|danced in
        the sky|went up and up|looked like {a bird} in the clouds]. <excited>

        Then the string [broke|slipped out of {his} hand|snapped]. The kite flew [off|away] and [landed|got stuck] in a
        [tall|very high] {fruit.tree}. <sad> {He} [jumped and jumped|shook the tree|tried to climb up], but [it was too
        high|only {a fruit} fell down|the branches were too thin]. {friend} came by with {a pole}. "[What is wrong|Why
        are you so quiet|What happened]?" {friend.he} <asked>. "My kite is [up there|in the tree|stuck]," said {hero}.

        <idea> {hero} held the {pole} [up high|as high as {he} could], and {friend} [climbed on a bench|stood on {his}
        shoulders|held {him} by the legs]. They [poked|pushed|pulled] [once, twice, three times|again and again|very
        softly], and at last the kite [came down|fell into the grass|dropped down like a leaf]. <thanks friend> They
        tied a [new|stronger|longer] string to it, and [all afternoon|until the sun went down|until dinner] they [flew
        it together|took turns|let it dance]. [<together friend>|<help lesson>|<share lesson>]
        """,
    ),
    "the sandcastle": Plot(
        "hero: child, friend: child",
        """
        <once child> <trait> <one day>, {hero} was at the beach with {grownup}. <fine sky> {He} built a <big>
        sandcastle with {number} towers. {He} put [a shell|a feather|a flag|a stick] on top and dug a [deep|wide|long]
        ditch around it with {a digger}. "[This is the best castle in the world|Here lives the king of the crabs|Look
        at my castle]!" {he} said.

        But the sea came [closer and closer|nearer|up the sand]. [Swish!|Whoosh!|Splash!] A [big|cold|white] wave [ran
        over|washed over|took] the castle, and [only one tower was left|nothing was left but wet sand|all the towers
        were gone]. <sad> A {friend.child} [with {a colour} bucket|in {a colour} hat|with wet hair] [sat down next to
        {him}|had seen it all]. "I am {friend}," {friend.he} said. "[The sea took mine, too|Waves are like that|I know
        a better place]. [We can build a new one|Let us build another one] [farther up|by the rocks|where the sand is
        dry]."

        So they [began again|dug side by side|carried wet sand, bucket after bucket]. {hero} made the [walls|towers
        |gate], and {friend} [found shells for the windows|made a road|built a bridge]. It was [even bigger than the
        first one|the biggest castle on the beach|so big that {grownup} took a picture of it]. <soon>, the sea came
        again, [but it did not get so far|but it only filled the ditch|and they laughed and let it come]. <snack>
        [<together friend>|<try lesson>|<end>]
        """,
    ),
    "the seed": Plot(
        "hero: child",
        """
        <once child> <trait> <place> <one day>, {neighbor} gave {him} a [small|tiny|brown|round] seed. "[Put it into
        the earth and wait|Plant it and give it time|Take good care of it]," {neighbor.he} said. "[It will surprise you
        |Something <big> is sleeping in it|You will see what comes]." {hero} planted it [by the fence|under the window
        |in {a colour} pot|in the middle of the garden] and gave it water.

        The next day [nothing had happened|there was only brown earth|{he} ran out to look, but nothing was there].
        {hero} [waited|watered it|sang to it|looked at it] {number} days, and still there was nothing. "[Maybe it is
        broken|I think it is dead|I want to dig it up]," {he} [said|sighed|told {grownup}]. <sad> "[Seeds sleep first
        |It is working in the dark|It is making roots]," said {grownup} <kindly>. "[Give it time|Just wait a little|Let
        it sleep]."

        {hero} waited. [It rained|The sun shone|The wind blew] and [it got warm|the days got longer|the birds came
        back]. <one day>, {he} saw a [small|thin|tiny] green [tip|leaf|point]. "[It is here|Look, look|It woke up]!"
        {he} <cried>. It grew [and grew|a little each day|up to {his} knee, and then to {his} nose], and in the [summer
        |fall] there was a <big> [sunflower, as yellow as the sun|{vegetable}, as big as a ball|bush full of {colour2}
        roses]. {hero} showed it to {neighbor}. <wait lesson>
        """,
    ),
    "the puddle boat": Plot(
        "hero: child, friend: child",
        """
        <once child> <trait> <place> [It had rained all night.|After the storm, the street was wet.|It rained and
        rained.] In front of the house there was a [long|wide|deep] puddle. {hero} folded a boat out of [{colour} paper
        |an old newspaper|a page with stars on it] and [put it on the water|wrote {his} name on it]. "[Ship ahoy|Off
        you go|Sail, little boat]!" {he} <cried>.

        {friend} came with a boat, too. {friend.His} boat was made of [bark|a nutshell|wood|a milk box]. "Let us have a
        race!" {friend.he} said. [They blew as hard as they could.|They made waves with {a pole}.|One, two, three, go!]
        {hero}'s boat was [faster|ahead|in front], but then it [got wet and began to sink|hit a stone and fell over
        |went down like a rock]. <sad> "[You win|The race is over]," {he} said [quietly|in a small voice|with a sigh].

        But {friend} [fished the wet boat out|did not cheer|shook {friend.his} head]. "[It is no fun to win alone|My
        boat needs a captain|One boat is enough for two]," {friend.he} said. They [put a leaf on it as a sail|made a
        flag for it|gave it a crew of {number} ants] and called it "[The Brave Duck|The Sea Star|The Wet Sock|The Queen
        of the Street]". It sailed [from one end to the other|around {number2} islands|all the way to the gate]. Their
        [feet|shoes|socks] got wet, but [they did not mind|nobody cared|it was worth it]. [<together friend>|<share
        lesson>|<night>]
        """,
    ),
    "the snowman": Plot(
        "hero: child, friend: child",
        """
        <once child> <trait> <snowy day>, {hero} [looked out of the window|woke up early|opened the door], and the
        whole [garden|street|world] was white. <excited> {He} put on {his} [boots|mittens|thick socks] and <ran>
        outside. {friend} was there, too, and they [rolled a <big> ball of snow|pushed the snow together|made three
        balls, one on top of the other]. Soon there stood a [fat|tall|round|funny] snowman. They gave him {a vegetable}
        for a nose, [two stones|two nuts|two buttons] for eyes and {a colour} scarf. They called him [Mr. Cold|Snowy
        |Uncle Winter|Captain Ice].

        The next [morning|day], {hero} <cried>, "[His nose is gone!|Where is his nose?|Somebody took his nose!]"
        {friend} found [small|tiny|strange] [tracks|footprints] in the snow. They followed them [around the house|past
        the barn|to the fence]. And there, {hiding}, sat a [thin|cold|hungry] {animal}. It [was eating|nibbled at] the
        {vegetable} and [looked up with big eyes|shivered|tried to hide].

        "[It took our nose|That is our nose|So you are the thief]!" <called> {friend}. But {hero} said, "[Look, it is
        so hungry|It cannot find food in the snow|It needs the nose more than the snowman does]." They [let it eat
        |brought some {animal.food}|went home to ask {grownup} for more food]. From then on, they [put out|brought]
        something for the animals [every day|each morning|every {weekday}]. And the snowman? He got {a fruit} for a
        nose, and [he looked very funny|it suited him well|he did not mind at all]. [<help lesson>|<share lesson>
        |<night>]
        """,
    ),
    "the first bike ride": Plot(
        "hero: child, friend: child",
        """
        <once child> <trait> {He} got {a colour} bike from {grownup}. [It had a bell|It had a basket|It was a little
        too big], and {he} [wanted to ride it at once|thought it was the best bike in town|polished it every day].
        {friend} could ride [with one hand|very fast|up the hill]. "[I want to ride like {friend}|It looks so easy
        |Today I will ride, too]," said {hero}.

        <one day>, {he} took the bike to the [park|school yard|quiet street]. <fine sky> {hero} sat down, [pushed off
        |lifted {his} feet|rang the bell], and [bump|crash|oops]! {He} fell [into a bush|into the grass|on {his} knee
        |into a pile of leaves]. {He} tried {number} times, and each time {he} fell. <sad> "[I will never learn it|I do
        not want the bike anymore|Bikes are silly]!" {he} <cried>.

        {friend} came and sat down beside {him}. "[I fell many times, too|My knees were blue for weeks|Everybody falls
        at first]," {friend.he} said. "[Look at the road, not at your feet|Go a little faster, then it is easier|Do not
        be afraid of the bike]." {grownup} held the [seat|saddle] and [ran behind|ran along|counted to three]. {hero}
        [went|rolled] on and on. "[Do not let go!|Are you still there?|Hold me tight!]" {he} called. But {grownup} [had
        let go long ago|was far behind|stood still and waved]. {hero} was riding all alone! [The wind was in {his}
        hair.|{He} rang the bell and laughed.|{He} rode around the big tree and back.] <try lesson> [<night>|<together
        friend>|<end>]
        """,
    ),
    "ants at the picnic": Plot(
        "hero: child, friend: child",
        """
        <once child> <trait> <one day>, {hero}, {friend} and {grownup} had a picnic {outdoors.at}. <fine sky> In the
        basket there were {number} {treat.plural}, some {fruit.plural} and a bottle of {drink}. They put {a colour}
        blanket [under a tree|on the soft ground|in the shade]. "[First we play, then we eat|Let us play ball before we
        eat|Come and catch me]!" <cried> {friend}.

        When they came back, [hungry and happy|with red cheeks|out of breath], {hero} [opened the basket|lifted the lid
        |looked in] and [screamed|jumped back|could not believe it]. "[Ants|There are ants everywhere|A hundred ants]!"
        {he} said. A long line of ants [carried crumbs away|marched over the blanket|walked in and out]. Half of the
        {treat.plural} were [gone|eaten]. <sad> "[Bad ants|Go away|I will step on them]!" <called> {friend}.

        "Wait," said {grownup} <kindly>. "[They are only hungry, as you are|They have a family, too|Look how strong
        they are]. [Maybe we can make a deal with them|I think we are sitting on their road]." {hero} [broke {a treat}
        into crumbs|took a small piece of {treat}] and put it [far from the blanket|next to an old stump|near their
        little hill]. {friend} made [a road of sugar|a sign that said "Ants this way"]. <soon>, all the ants [turned
        around|went there|marched to their own party]. "[Now they have a picnic, too|I think they say thank you|Good
        ants]!" <called> {friend} and laughed. They [ate|shared] what was left, and it was [just enough|more than
        enough|the best meal of the week]. [<share lesson>|<end>|<night>]
        """,
    ),
    "lost at the market": Plot(
        "hero: child",
        """
        <once child> <trait> <one day>, {he} <went> to the [big|busy|old] market with {grownup}. [It smelled of bread
        and flowers.|People talked and laughed everywhere.|There were a hundred things to see.] They bought
        {fruit.plural}, {vegetable.plural} and a bag of {treat.plural}. "[Stay close to me|Hold my hand|Do not run
        away], {hero}," said {grownup} <kindly>.

        But then {hero} saw [a man with {number} balloons|a woman who danced with a hoop|{a bird} in a cage|a stand
        full of {toy.plural}]. {He} [stopped to look|ran to see it|stood there with an open mouth]. When {he} turned
        around, {grownup} was [gone|not there|nowhere to be seen]. [There were only legs and bags.|Everybody was a
        stranger.|{He} called, but it was too loud.] <scared>

        Then {he} remembered what {grownup} had told {him}: "If you are lost, [stay where you are and ask|stand still
        and ask|ask someone who works there]." [Close by|Right there] {he} saw [the woman who sold {fruit2.plural}|the
        baker with the white cap|the old man with the flowers]. "[I am lost|I cannot find {grownup}|Please help me],"
        {hero} said. The kind [seller|shopkeeper] gave {him} {a fruit3} and [called {grownup}'s name very loudly|lifted
        {him} up on a box|rang a big bell]. And there [came|was] {grownup}, [running|out of breath|waving with both
        arms]! {hero} [ran into {grownup.his} arms|held on to {grownup.his} coat|laughed and cried at once]. "[You did
        just the right thing|I was so afraid|How clever of you to ask]," said {grownup} <kindly>. {hero} held
        {grownup.his} hand [all the way home|for the rest of the day|and did not let go]. [<care lesson>|<night>]
        """,
    ),
    "the wish on a star": Plot(
        "hero: child",
        """
        <once child> <trait> {He} had one big wish: {he} wanted [to fly like a bird|to talk with the animals|to see the
        sea|a friend next door|to be as tall as a tree]. [Every night|Each evening], {he} looked for a falling star.
        "[If you see one, you can make a wish|Falling stars hear wishes|A wish must wait for its star]," {grownup}
        [said|had said].

        One [clear|warm|quiet] night, {hero} [lay in the grass|stood by the window|sat on the steps] under {a colour}
        blanket. {He} [counted {number} stars|hummed a song|heard an owl]. [An hour went by|It got late|{His} eyes got
        heavy], but no star fell. Then {he} saw something [small|dark|wet] in the garden. It was {neighbor}'s {pet}! It
        was [all alone|lost|shaking with cold], and it {pet.sound} [softly|sadly]. "[If I go, I will miss my star,|What
        if the star comes now?|But what about my wish?]" {he} thought. Then {he} [took it in {his} arms|wrapped it in
        the blanket|called it softly] and [brought|led] it to {neighbor}.

        {neighbor} was <glad>. "[I looked for it everywhere|You found my little friend|I was so worried]!"
        {neighbor.he} said. "[Stay a moment and look|Come with me|I have something to show you]." Behind the house
        stood a [long|big|golden] telescope! {hero} looked in, and [there was the moon with all its hills|the stars
        were as big as {fruit.plural}|{he} saw a star with a ring]. And just then [a star fell|a bright line ran over
        the sky|a star flew by]! {hero} [closed {his} eyes and made|made|whispered] {his} wish. {He} never told [anyone
        |us] what it was[, but it came true|, but {he} smiled|]. [<help lesson>|<wait lesson>|<together neighbor>]
        """,
    ),
    "the treasure map": Plot(
        "hero: child, friend: child",
        """
        <once child> <trait> <one day>, {hero} found an old [map|piece of paper] {spot}. There was [a red cross|a black
        X|a golden star] on it. "[A treasure map|This must be from a pirate|It shows where the gold is]!" {he} <cried>
        and <ran> to {friend}. {friend} took {a digger}, and {hero} took [a lamp|some {treat.plural}|a bag for the
        gold]. "[Ten steps to the gate|First to the bridge], then [left at the {fruit.tree}|around the pond|to the gray
        stone]," {friend} read.

        They [walked and walked|counted the steps|looked at the map again and again]. But then [the path went three
        ways|the wind took the map away|they could not read the rest]. "[It is your fault|You held the map wrong|I told
        you to go left]!" <called> {hero}. "[No, it is yours|I did not do anything|You never listen]!" <called>
        {friend}. They [sat back to back|did not speak|turned away from each other] for a long [while|time]. <sad>

        Then {friend} held out [half of {a treat2}|a hand|a dry leaf with a funny face]. "[I am sorry|I do not want to
        fight|Let us think together]," {friend.he} said. "[Me, too|I am sorry, too|You are right]," said {hero}.
        Together they looked [under an old bench|behind a big stone|between the roots of a tree], and there was a box!
        In it were {a treasure}, {number} [glass beads|old stamps|shiny stones] and a letter: "[Well done, you two|Good
        friends find everything|Now hide something for the next ones]. Your {grownup}." They [laughed and danced around
        the box|laughed until their tummies hurt|looked at each other and grinned]. "[The walk was the best part|You
        are the real treasure|Let us make a map ourselves]," said {friend}. [<together friend>|<snack>|<night>]
        """,
    ),
    "the rainbow": Plot(
        "hero: child, friend: child",
        """
        <once child> <trait> <place> <rainy day>, {hero} [sat at the window|was in a bad mood|drew on the foggy glass].
        "[Rain, rain, go away|I do not like the rain|Nothing is fun today]," {he} said. {grownup} [smiled|looked up
        from a book] and said, "[Wait and see|The rain brings presents|Put on your boots and go look]." So {hero} went
        to {friend}, and they [splashed in the puddles|caught drops with their tongues|listened to the rain under {a
        colour} umbrella].

        <soon>, the sun came out, and there was a rainbow [over the hills|over the roofs|from one end of the sky to the
        other]! "[I want to touch it|Let us find the end of it|There is gold at its end]!" <cried> {friend}. They <ran>
        [over the wet grass|down the road|across a field]. But the rainbow [was always a little farther away|moved when
        they moved|did not come closer]. And then it [got paler and paler|was gone|went out like a candle]. <sad>

        "[I wanted to keep it|It went away too soon|Now all is gray again]," said {friend}. <idea> Back home, {he} took
        [paper and paints|a box of chalk|{number} crayons], and they [made|painted] a rainbow [on the wall|on the
        sidewalk|as long as the table], with red, orange, yellow, green, blue and purple. {grownup} [looked at it and
        clapped|made {drink} for them|was amazed]. "[This one will stay|This one is even brighter|Now it can rain
        again]," said {hero}. [<end>|<night>|<together friend>]
        """,
    ),
}
