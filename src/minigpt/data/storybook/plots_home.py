"""Plots that happen at home."""

from minigpt.data.storybook.engine import Plot

PLOTS = {
    "the lost toy": Plot(
        "hero: child",
        """
        <once child> <trait> <place> {He} had {a colour} {toy} and [loved it very much|took it everywhere|liked it more
        than anything]. [Every day|Each morning|After breakfast], {he} {toy.play}.

        <one day>, the {toy} was gone. {hero} [looked|searched] {spot}, but it was not there. {He} [looked|peeked]
        {spot2}, but [it was not there either|there was only dust|{he} found only an old sock]. <sad> "{grownup}, I
        [lost|cannot find] my {toy}," {he} said.

        <comfort grownup> [{hero} nodded|{hero} wiped {his} eyes] and [thought hard|closed {his} eyes to think|tried to
        remember the day before]. Then {he} [ran|hurried|went] to look {spot3}. There was the {colour} {toy}! "[I found
        it!|Here it is!|There you are!]" {hero} [cried|shouted|called]. {He} [held it tight|kissed it|gave it a big
        hug]. [<thanks grownup>|Now {he} always puts the {toy} [away|in its place] [before bed|after playing].] [<end>
        |<night>]
        """,
    ),
    "cakes for a neighbor": Plot(
        "hero: child",
        """
        <once child> <trait> <place> <one day>, {grownup} said, "{neighbor} is [sick|all alone|a little sad] today.
        [Let us bake|I think we should bake|We could make] [{number}|some] {treat.plural} for {neighbor.him}."
        <excited>

        {hero} [stirred the dough|mixed the flour and the sugar|broke the eggs|poured the milk into the bowl] [with a
        big spoon|while {grownup} sang|very carefully]. But [oh no! The bowl fell on the floor|oh dear! {He} used salt
        and not sugar|the first ones burned and smelled of smoke|the dog came in and ate [half|all] of the dough].
        <sad> "[That can happen|It happens to me too|That is not so bad]," said {grownup} <kindly>. "[We will just
        start again|We can make more|Let us try once more]."

        The second time, [everything went well|they were very careful|they took their time], and soon the [kitchen
        |whole house] smelled [sweet|wonderful|like a bakery]. They [carried|brought] the warm {treat.plural} to
        {neighbor} in {a colour} [basket|box|bag]. {neighbor} [took a bite|tasted one] and [smiled|beamed]. "[How
        lovely|What a nice surprise|These are the best {treat.plural} in the world]!" {neighbor.he} said. "[Stay and
        eat with me|Come in and have some {drink}|Now I feel much better]." [<help lesson>|<try lesson>|<end>|<night>]
        """,
    ),
    "the broken vase": Plot(
        "hero: child",
        """
        <once child> <trait> {grownup} had [a beautiful|a fine old|a special] {fragile} {room.at}. It was {colour} [and
        very thin|with little flowers on it|and came from far away]. "Please do not [run|play ball|jump] {room.at},"
        {grownup} [always|often] said.

        <rainy day>, {hero} [was bored|had nothing to do|could not go outside]. {He} [played with a ball|spun like a
        top|danced with a broom|ran like a wild horse] {room.at}. [Crash!|Bang!|Crack!] The {fragile} [fell|dropped] to
        the floor and broke into {number} pieces. <scared> [{He} hid the pieces {spot}.|{He} pushed the pieces {spot}.]

        Soon {grownup} came in. "[What was that noise?|Did something fall?|What happened here?]" {grownup.he} asked.
        {hero} wanted to say, "It was the [cat|wind|dog]." But {his} [tummy|heart] felt [heavy|bad|like a stone]. So
        {he} took a deep breath. "[It was me|I broke it|I did it]. I am [so|very] sorry," {he} [said|whispered].
        {grownup} was quiet for a [moment|little while]. Then {grownup.he} [hugged {him}|took {his} hand|sat down next
        to {him}]. "I am [sad about it|a little cross], but I am [happy|proud|glad] that you told the truth,"
        {grownup.he} said. Together they [glued the pieces|swept the floor|put the pieces into a box]. [<truth lesson>
        |{hero} never [played|ran around] {room.at} again.|<night>]
        """,
    ),
    "the noise in the night": Plot(
        "hero: child",
        """
        <once child> <trait> <place> One [dark|quiet|stormy|cold] night, {hero} lay in bed [with {his} {toy}|under {a
        colour} blanket] and could not sleep. [Tap, tap, tap!|Scratch, scratch!|Bump, bump!|Creak, creak!] There was a
        [strange|funny|soft] noise {room.at}. <scared> "[Is it a monster?|Is it a ghost?|Who is there?]" {he}
        whispered.

        {hero} called {grownup}. <comfort grownup> {grownup} [gave {him} a small light|lit a candle|turned on a lamp],
        and hand in hand they [tiptoed|walked slowly|went] to {room}. The noise came again! {hero} [wanted to run away
        |held {grownup}'s hand very tight|took a deep breath]. Then {he} [looked|pointed the light] {spot}.

        It was [only|just] {a pet}! It [was lost and cold|had come in from the rain|only wanted some {pet.food}|wanted
        to play], and it {pet.sound} [softly|sadly|when it saw them]. {hero} [laughed|had to laugh|began to giggle].
        "You are [not a monster at all|much too small for a monster|more afraid than I am]!" {he} said. {He} gave the
        {pet} some {pet.food} and [a warm place to sleep|a soft pillow|a blanket]. Then {hero} [slept|fell asleep] too.
        [<brave lesson>|<dark lesson>|In the morning, {he} called the {pet} {petname}, and it stayed [for a long time
        |with the family].]
        """,
    ),
    "the messy room": Plot(
        "hero: child, friend: child",
        """
        <once child> <trait> <place> {hero} had [many|so many|a lot of] {toy.plural} and {toy2.plural}, but {he} never
        put them away. They lay {spot}, {spot2} and [on the chair|all over the floor|even on the bed]. "Please clean
        your room, {hero}," said {grownup} <kindly>. "[Later|Not now|Tomorrow|I am too tired]," said {hero}.

        <one day>, {friend} [came|knocked at the door]. "[We are going|I want to go] to {outdoors}! Do you want to
        come? [Bring your {clothing}|You only need your {clothing}|It is cold, so take your {clothing}]!" {hero} looked
        and looked, but {he} could not find {his} {clothing} in the mess. [{He} stepped on {a toy}. Ouch!|{He} fell
        over {a toy}. Ouch!] <sad>

        "[I will help you|Let us do it together|Two are faster than one]," said {friend}. They [put all the
        {toy.plural} in a box|made it a game|sang a song while they worked]. {hero} [picked up|gathered] the
        {toy2.plural}, and {friend} [made the bed|swept the floor|folded the clothes]. And there, {spot3}, was the
        {clothing}! {grownup} [came in and could not believe it|was very surprised|clapped]. "[What a clean room|How
        nice it looks|Well done]!" {grownup.he} said. Then the two friends [ran|went|skipped] to {outdoors} [at last
        |and played until dinner]. [<help lesson>|Now {hero} cleans up every [evening|day|{weekday}].|<end>]
        """,
    ),
    "when the grown-up was sick": Plot(
        "hero: child",
        """
        <once child> <trait> <place> <one day>, {grownup} did not get up. {grownup.His} [head|tummy|throat] hurt, and
        {grownup.he} [had a fever|was very tired|had to stay in bed]. <sad> "[I want to help|Now I will take care of
        {grownup}|I must do something]," {he} thought.

        First {hero} brought [a glass of water|a cup of tea|a warm blanket|a soft pillow]. Then {he} wanted to make
        {meal}, but [the pot was too heavy|the stove was too hot for {him}|{he} could not reach the shelf|{he} did not
        know how]. <idea> {He} [ran|went] to {neighbor} next door. "[{grownup} is sick. Can you help me cook?|Will you
        help me make some {meal}?|Can you show me how to make {meal}?]" {he} asked. "[Of course|Yes, gladly|What a good
        child you are]!" <called> {neighbor}.

        [Together they cooked|They washed their hands and cooked|They cooked and laughed], and {hero} [set the tray
        |carried the bowl|put a flower on the tray]. {grownup} ate [everything|every bite|it all up] and [smiled|sat up
        in bed]. "[Now I feel better|I never had such good {meal}|You are the best doctor]," {grownup.he} said. {hero}
        [read {grownup.him} a story|sang {grownup.him} a song|drew {grownup.him} a picture] until {grownup.he} fell
        asleep. [The next day|Two days later], {grownup} was well again. [<help lesson>|{hero} was [proud|glad|happy],
        and so was {neighbor}.|<night>]
        """,
    ),
    "the loose tooth": Plot(
        "hero: child, friend: child",
        """
        <once child> <trait> <place> {hero} had a loose tooth. It [wiggled|moved] [to and fro|a little more each day
        |when {he} talked]. {friend} said, "[My tooth came out when I ate {a fruit}|I pulled mine out with a string|It
        does not hurt at all]." But {hero} [did not want to lose it|was afraid that it would hurt|shut {his} mouth
        tight]. {He} [would not eat|did not eat] {meal}, and {he} [spoke|smiled] only with {his} mouth closed.

        <one day>, {grownup} made {treat.plural}. They smelled [so good|sweet|of butter and sugar]. {hero} [looked at
        them for a long time|wanted one very much|was so hungry]. "[A new tooth is waiting under the old one|Big
        children get big teeth|Everybody loses teeth, even I did]," said {grownup} <kindly>. {hero} [thought about it
        |took a deep breath|felt a little braver]. {He} took a [small|big|careful] bite. [Pop!|Plop!|Click!] There was
        the tooth, [in the {treat}|in {his} hand|on the plate].

        "[It did not hurt|I did not feel a thing|That was easy]!" {hero} [cried|laughed|shouted]. {He} [ran to the
        mirror|looked in a spoon] and saw a [funny|little|dark] gap. {He} put the tooth [under {his} pillow|in {a
        colour} box|in a little bag]. In the morning, there was a [shiny|bright|new] {treasure} [in its place|next to
        {his} bed]. [<brave lesson>|{hero} ran to show it to {friend}.|Then {hero} could [whistle|eat anything] again.]
        """,
    ),
    "the big box": Plot(
        "hero: child, friend: child",
        """
        <once child> <trait> <place> <rainy day>, {hero} and {friend} were [bored|stuck inside]. "There is nothing to
        do," said {friend}. [They had played with the {toy} and with the {toy2}.|They had looked out of the window for
        an hour.|All the games were boring.] Then {hero} saw a big [brown|empty|old] box {room.at}. "[This is not a box
        |Look what I found|I know]!" <called> {hero}. "This is a [ship|rocket|castle|train|cave]!"

        They [painted it {colour}|cut a door and a window in it|put a flag on it]. {grownup} gave them {a tool} and [an
        old sheet|some string|two pillows]. "[Where are we going?|What do you see?|Who is there?]" [asked|called]
        {friend}. "I see [a green island|a land of ice|the moon|a sleeping dragon|a whale]!" <called> {hero}. "[Hold on
        tight|Be very quiet|Look out]!" They [rocked|shook] the box [and laughed|and sang a sailor song|until their
        hair was a mess].

        But then the box [tore|broke|came apart] on one side. "[Now it is over|Oh no, our box]," said {friend} [sadly
        |with a long face]. <idea> "[Now it is a tunnel|Now it is a boat with a sail|Now it is a puppet stage]!" {he}
        said, and the game [went on|began again]. They played until {grownup} [called,|came and said,] "Time for
        {meal}!" [<end>|It was [the best|a fine] rainy day.|The rain could wait. A box can be anything.]
        """,
    ),
    "the new baby": Plot(
        "hero: child, baby: child",
        """
        <once child> <trait> <place> [One spring|One summer|Last winter], a baby came to the family. {baby.His} name
        was {baby}. Everybody [looked at|talked about|smiled at] {baby}. The baby [cried|slept|drank milk] all day, and
        nobody [had time for|played with] {hero}. <sad> "[I do not like {baby}|{baby} cannot even play|I wish {baby}
        were {a pet}]," {he} [thought|said to {his} {toy}].

        <one day>, {baby} [cried and cried|would not stop crying|was crying very loud]. {grownup} [rocked {baby.him}
        |sang a song|gave {baby.him} a bottle], but [it did not help|nothing worked|{baby} only cried more]. Then
        {hero} [made a funny face|danced with {his} {toy}|said "Peek!" from behind a blanket|sang a silly song about {a
        vegetable}]. {baby} [stopped|became quiet] and looked at {him} with [big|round] eyes. And then {baby.he}
        laughed!

        "[{Baby} only laughs for you|You are {baby.his} favorite|That was {baby.his} first laugh]!" <called> {grownup}.
        {hero} felt <glad>. "[When you are big, I will teach you to {hobby.to}|I will show you everything|We will have
        so much fun], {baby}," {he} said. {baby} [held {his} finger|smiled again|made a happy sound]. [<together baby>
        |<end>|<help lesson>|<night>]
        """,
    ),
}
